//! What stands before each route.

use std::convert::Infallible;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use tower::{Layer, Service};

use super::audit::{self, Record};
use super::{Access, Caller, Checked, Class, Denied, denied, headers};

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
    type Future =
        Either<S::Future, Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Guard { access, table } = &self.guard;
        let class = match class(*table, &request) {
            Ok(Class::Public) | Err(Unclassed::NoRoute) => {
                return Either::Left(self.inner.call(request));
            }
            Ok(class) => class,
            Err(Unclassed::Method(known)) => {
                return Either::Right(Box::pin(ready(Ok(denied::no_method(&known)))));
            }
        };
        let asked = Asked::new(&request, class);
        let checked = access.check_now(request.headers(), asked.from, &asked.name);
        let admitted = checked.map(|checked| asked.admit(&request, checked));
        // Most requests: they cost no copy of what comes after, and nothing comes after them.
        if !asked.is_audited()
            && let Ok(Ok(caller)) = admitted
        {
            request.extensions_mut().insert(caller);
            return Either::Left(self.inner.call(request));
        }
        // The one that said it is ready is the one to be called.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let access = access.clone();
        Either::Right(Box::pin(async move {
            let admitted = match admitted {
                Ok(admitted) => admitted,
                Err(given) => {
                    let checked = access.check_given(given, asked.from, asked.name.clone());
                    let checked = checked.await;
                    asked.admit(&request, checked)
                }
            };
            access.pass(request, &asked, admitted, &mut inner).await
        }))
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

impl Access {
    /// Calls what comes next for whom is let in, and writes down what is to be.
    async fn pass<S>(
        &self,
        mut request: Request,
        asked: &Asked,
        admitted: Result<Caller, (String, Denied)>,
        inner: &mut S,
    ) -> Result<Response, Infallible>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let name = headers::text(&asked.name);
        let deed = Deed::new(&request, &asked.name);
        let caller = match admitted {
            Ok(caller) => caller,
            Err((who, denied)) => {
                tracing::debug!(%who, request = name, why = %denied, "denied");
                if asked.is_audited() || asked.class == Class::Administer {
                    let outcome = format!("denied: {denied}");
                    self.0.journal.say(deed.line(&who, &outcome));
                }
                return Ok(denied.into_response());
            }
        };
        if !asked.is_audited() {
            request.extensions_mut().insert(caller);
            return inner.call(request).await;
        }
        let mut left = Left {
            access: self,
            deed: &deed,
            who: caller.name(),
            is_over: false,
        };
        request.extensions_mut().insert(caller);
        let response = inner.call(request).await?;
        left.is_over = true;
        if response.extensions().get::<Audited>().is_none() {
            let line = deed.line(&left.who, &outcome(response.status()));
            // Waited for: what was answered is in the log.
            if let Err(why) = self.0.store.audit(vec![line]).await {
                tracing::error!(%why, request = name, "a line of the audit log was lost");
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

/// What is asked for, as far as it decides who may.
struct Asked {
    class: Class,
    mutates: bool,
    from: IpAddr,
    /// The request's.
    name: HeaderValue,
}

impl Asked {
    fn new(request: &Request, class: Class) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let from = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        Self {
            class,
            mutates: ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()),
            from: from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            name: headers::request(request.headers()),
        }
    }

    /// What agents report is no deed of anybody's, and is a lot.
    fn is_audited(&self) -> bool {
        self.mutates && self.class != Class::Agent
    }

    /// Who asks; or why not, and what is known of who it was.
    fn admit(&self, request: &Request, checked: Checked) -> Result<Caller, (String, Denied)> {
        let (uri, headers) = (request.uri(), request.headers());
        let caller = checked.map_err(|(whose, denied)| {
            let whose = whose.as_deref().unwrap_or("unknown");
            (format!("{whose}, from {}", self.from), denied)
        })?;
        let foreign =
            caller.via.is_ambient() && self.mutates && headers::is_of_another_site(uri, headers)
                || caller.known.is_none() && !headers::is_for_loopback(uri, headers);
        if foreign {
            return Err((caller.name(), Denied::Foreign));
        }
        if !caller.may(self.class) {
            let denied = Denied::Role(caller.role(), self.class);
            return Err((caller.name(), denied));
        }
        Ok(caller)
    }
}

/// A request, as the audit log tells of it.
struct Deed {
    name: HeaderValue,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
}

impl Deed {
    fn new(request: &Request, name: &HeaderValue) -> Self {
        Self {
            name: name.clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            route: request.extensions().get().cloned(),
        }
    }

    fn line(&self, who: &str, outcome: &str) -> crate::store::Audit {
        let path = self.uri.path();
        let route = self.route.as_ref().map_or(path, MatchedPath::as_str);
        let end = path.floor_char_boundary(OBJECT_BYTES_MAX);
        Record {
            who: who.into(),
            request: headers::text(&self.name).into(),
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
    deed: &'a Deed,
    who: String,
    is_over: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let outcome = "unknown: the caller went away before the answer";
            let line = self.deed.line(&self.who, outcome);
            self.access.0.journal.say(line);
        }
    }
}
