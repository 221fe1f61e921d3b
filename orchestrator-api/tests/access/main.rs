//! Who is let in, over the embedded store and real connections.

mod audit;
mod joins;
mod roles;
mod serving;
mod starting;
mod tls;
mod tokens;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Router};
use orchestrator_api::access::token::{Made, New};
use orchestrator_api::access::{
    Access, Audited, Caller, Class, Denied, Guard, JoinError, Opening, Role, Settings,
};
use orchestrator_api::engine::Who;
use orchestrator_api::store::Store;
use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_core::Time;
use tempfile::TempDir;
use tower::ServiceExt;

/// A server's tokens, and a router with a route for each class.
struct Fixture {
    access: Access,
    app: Router,
    store: Arc<dyn Store>,
    dir: TempDir,
}

impl Fixture {
    fn closed() -> Self {
        Self::with(Opening::Closed)
    }

    fn with(opening: Opening) -> Self {
        let dir = dir();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(dir.path()).expect("a new directory"));
        let access = Access::new(store.clone(), opening, Settings::default());
        let app = app(&access);
        Self {
            access,
            app,
            store,
            dir,
        }
    }

    async fn token(&self, role: Role, node: Option<&str>) -> Made {
        let made = self.access.create(new(role, node), who()).await;
        made.expect("a token can be made")
    }

    async fn get(&self, path: &str, token: Option<&Made>) -> Said {
        self.send(Method::GET, path, token, "").await
    }

    async fn post(&self, path: &str, token: Option<&Made>, body: &str) -> Said {
        self.send(Method::POST, path, token, body).await
    }

    async fn send(&self, method: Method, path: &str, token: Option<&Made>, body: &str) -> Said {
        let request = Request::builder().method(method).uri(path);
        let request = match token {
            Some(made) => request.header(AUTHORIZATION, bearer(made)),
            None => request,
        };
        let request = request.body(Body::from(body.to_owned()));
        self.ask(request.expect("a request")).await
    }

    async fn ask(&self, request: Request) -> Said {
        let response = self.app.clone().oneshot(request).await;
        let (parts, body) = response.expect("a router answers").into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        Said {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).expect("text"),
        }
    }
}

struct Said {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

fn app(access: &Access) -> Router {
    async fn name(caller: Caller) -> String {
        caller.name()
    }
    async fn report(caller: Caller, node: String) -> Result<String, Denied> {
        Ok(caller.speaks_for(Some(&node))?.to_string())
    }
    let mut router = Router::new()
        .route("/report", post(report))
        .route("/agent/join", join(access));
    for class in Class::ALL {
        let methods = if class == Class::Public {
            get(async || "public").post(async || "public")
        } else {
            get(name).post(name)
        };
        router = router.route(&path(class), methods);
    }
    router.layer(Guard::new(access, class))
}

fn class(_: &Method, route: &str) -> Option<Class> {
    match route {
        "/report" => Some(Class::Agent),
        "/agent/join" => Some(Class::Join),
        of_class => Class::ALL
            .into_iter()
            .find(|&class| path(class) == of_class),
    }
}

fn join(access: &Access) -> axum::routing::MethodRouter {
    let access = access.clone();
    post(async move |caller: Caller, node: String| {
        let made = access.join(&caller, &node).await?;
        let token = made.map(|made| made.token.reveal().to_owned());
        Ok::<_, JoinError>((Extension(Audited), token.unwrap_or_default()))
    })
}

fn path(class: Class) -> String {
    format!("/{class:?}").to_lowercase()
}

fn bearer(made: &Made) -> String {
    format!("Bearer {}", made.token.reveal())
}

fn new(role: Role, node: Option<&str>) -> New {
    New {
        name: format!("a {}", role.as_str()),
        role,
        node: node.map(ToOwned::to_owned),
        expires_at: None,
    }
}

fn long_ago() -> Time {
    Time::from_millis(1)
}

fn who() -> Who {
    Who {
        name: "the test".to_owned(),
        request: "r0".to_owned(),
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}
