//! What stands before each route.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tower::{Layer, Service};

use super::audit::{self, Record};
use super::{Access, Caller, Class, Denied, denied, headers};

/// A longer path is cut in the audit log.
const OBJECT_BYTES_MAX: usize = 256;

/// Says the class of a route, by its method and its path as it was declared.
pub type Table = fn(&Method, &str) -> Option<Class>;

/// The layer that stands before all routes of a router. Their classes are in a table, and what is not in it is not
/// reached: where a path is in it with other methods, the answer is 405. A path that is no route's is left to the
/// router's fallback, which has to have nothing to hide.
///
/// A handler finds a [`Caller`] in its arguments, but on routes of [`Class::Public`].
#[derive(Clone, Debug)]
pub struct Guard {
    access: Access,
    table: Table,
}

impl Guard {
    /// Lets those through whom `access` knows, to what `table` allows them.
    pub fn new(access: &Access, table: Table) -> Self {
        Self {
            access: access.clone(),
            table,
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        let guard = self.clone();
        Guarded { guard, inner }
    }
}

/// A service with a [`Guard`] before it.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that said it is ready is the one to be called.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(self.guard.clone().pass(request, inner))
    }
}

/// What a table may know of a path.
static METHODS: [Method; 6] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// The class of the route that this request found, or what else is to be done with it.
fn class(table: Table, request: &Request) -> Result<Class, Unclassed> {
    let Some(route) = request.extensions().get::<MatchedPath>() else {
        return Err(Unclassed::NoRoute);
    };
    let class = |method: &Method| match *method {
        Method::HEAD => table(&Method::GET, route.as_str()),
        _ => table(method, route.as_str()),
    };
    if let Some(class) = class(request.method()) {
        return Ok(class);
    }
    let known = METHODS.iter().filter(|method| class(method).is_some());
    Err(Unclassed::Method(known.map(Method::as_str).collect()))
}

enum Unclassed {
    NoRoute,
    /// The methods that the path has.
    Method(Vec<&'static str>),
}

/// Put into a response, as `Extension(Audited)`: the audit log has what this request changed, by the transaction that
/// changed it, and it has nothing where nothing changed. Otherwise the guard writes a line for each request that may have changed something.
#[derive(Clone, Copy, Debug)]
pub struct Audited;

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            let path = parts.uri.path();
            tracing::error!(path, "a handler wants a caller on a route without a guard");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        })
    }
}

impl Guard {
    async fn pass<S>(self, mut request: Request, mut inner: S) -> Result<Response, Infallible>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let Self { access, table } = self;
        let class = match class(table, &request) {
            Ok(Class::Public) | Err(Unclassed::NoRoute) => return inner.call(request).await,
            Ok(class) => class,
            Err(Unclassed::Method(known)) => return Ok(denied::no_method(&known)),
        };
        let asked = Asked::new(&request, class);
        let admitted = access.admit(request.uri(), request.headers(), &asked).await;
        let caller = match admitted {
            Ok(caller) => caller,
            Err((who, denied)) => {
                tracing::debug!(%who, request = &*asked.request, why = %denied, "denied");
                if asked.is_audited() || class == Class::Administer {
                    let outcome = format!("denied: {denied}");
                    access.0.journal.say(asked.line(&who, &outcome));
                }
                return Ok(denied.into_response());
            }
        };
        if !asked.is_audited() {
            request.extensions_mut().insert(caller);
            return inner.call(request).await;
        }
        let mut left = Left {
            access: &access,
            asked: &asked,
            who: caller.name(),
            is_over: false,
        };
        request.extensions_mut().insert(caller);
        let response = inner.call(request).await?;
        left.is_over = true;
        if response.extensions().get::<Audited>().is_none() {
            let line = asked.line(&left.who, &outcome(response.status()));
            // Waited for: what was answered is in the log.
            if let Err(why) = access.0.store.audit(vec![line]).await {
                tracing::error!(%why, request = &*asked.request, "a line of the audit log was lost");
            }
        }
        Ok(response)
    }
}

fn outcome(status: StatusCode) -> String {
    match status.as_u16() {
        code @ 200..300 => format!("{} ({code})", audit::DONE),
        code @ (401 | 403) => format!("denied ({code})"),
        code @ 500.. => format!("failed ({code})"),
        code => format!("refused ({code})"),
    }
}

impl Access {
    /// Who asks; or why not, and what is known of who it was.
    async fn admit(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        asked: &Asked,
    ) -> Result<Caller, (String, Denied)> {
        let named = asked.request.clone();
        let checked = self.check_as(headers, asked.from, named).await;
        let caller = checked.map_err(|(whose, denied)| {
            let whose = whose.as_deref().unwrap_or("unknown");
            (format!("{whose}, from {}", asked.from), denied)
        })?;
        let foreign =
            caller.via.is_ambient() && asked.mutates && headers::is_of_another_site(uri, headers)
                || caller.known.is_none() && !headers::is_for_loopback(uri, headers);
        if foreign {
            return Err((caller.name(), Denied::Foreign));
        }
        if !caller.may(asked.class) {
            let denied = Denied::Role(caller.role(), asked.class);
            return Err((caller.name(), denied));
        }
        Ok(caller)
    }
}

/// A request, as far as the audit log tells of it.
struct Asked {
    class: Class,
    mutates: bool,
    from: IpAddr,
    request: Arc<str>,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
}

impl Asked {
    fn new(request: &Request, class: Class) -> Self {
        let extensions = request.extensions();
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let from = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        let method = request.method();
        Self {
            class,
            mutates: ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method),
            from: from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            request: headers::request(request.headers()),
            method: method.clone(),
            uri: request.uri().clone(),
            route: extensions.get().cloned(),
        }
    }

    /// What agents report is no deed of anybody's, and is a lot.
    fn is_audited(&self) -> bool {
        self.mutates && self.class != Class::Agent
    }

    fn line(&self, who: &str, outcome: &str) -> crate::store::Audit {
        let path = self.uri.path();
        let route = self.route.as_ref().map_or(path, MatchedPath::as_str);
        let end = path.floor_char_boundary(OBJECT_BYTES_MAX);
        Record {
            who: who.into(),
            request: self.request.as_ref().into(),
            action: format!("{} {route}", self.method).into(),
            object: path[..end].into(),
            outcome: outcome.into(),
        }
        .at(super::now())
    }
}

/// Says it when a caller goes away before the answer: what was asked for may have been done.
struct Left<'a> {
    access: &'a Access,
    asked: &'a Asked,
    who: String,
    is_over: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let outcome = "unknown: the caller went away before the answer";
            let line = self.asked.line(&self.who, outcome);
            self.access.0.journal.say(line);
        }
    }
}
