//! The native HTTP API: `/v1`, health, metrics, and the contract of it all.
//!
//! A handler reads its request (an `Ask`), says it to the engine, and shows what came of it; no rule of a
//! rollout is in here. What is wrong with a request is told all at once, as a problem of RFC 9457
//! ([`Problem`]), and then nothing has reached the engine.
//!
//! Who asks, and whether he may, is said by the [guard](crate::access::Guard) before each route.

mod agents;
mod ask;
mod audit;
mod deployments;
mod events;
mod fields;
mod groups;
mod health;
mod jobs;
mod logs;
mod metrics;
mod nodes;
mod openapi;
mod page;
mod problem;
mod rates;
mod request;
pub mod schema;
mod sse;
mod strict;
mod tokens;
mod voices;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use axum::response::Redirect;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

use self::metrics::Metrics;
pub use self::openapi::document;
pub(crate) use self::problem::{AGAIN, TAKEN_BACK, TOKEN_NEEDED};
pub use self::problem::{Fault, Problem};
use self::rates::Rates;
use self::voices::Voices;
use crate::access::{Access, Caller, Guard, routes as table};
use crate::engine::Handle;
use crate::logs::Logs;

/// What every handler stands on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handle: Handle,
    access: Access,
    logs: Arc<Logs>,
    rates: Rates,
    voices: Voices,
    metrics: Metrics,
    document: String,
    stopping: watch::Sender<bool>,
    explaining: Arc<Semaphore>,
}

/// How many logs are read from end to end at a time: it is work for a processor, and others want one too.
const EXPLAINING_MAX: usize = 2;

impl Api {
    /// The API of this engine, for those whom this lets in.
    pub fn new(handle: Handle, access: Access) -> Self {
        Self(Arc::new(Inner {
            handle,
            access,
            logs: Arc::new(Logs::new()),
            rates: Rates::default(),
            voices: Voices::default(),
            metrics: Metrics::new(),
            document: openapi::text(),
            stopping: watch::Sender::new(false),
            explaining: Arc::new(Semaphore::new(EXPLAINING_MAX)),
        }))
    }

    /// All routes, each behind its guard; and around everything request ids, logs, counting, and an answer where a
    /// handler panics.
    pub fn router(&self) -> Router {
        let (router, _) = routes().split_for_parts();
        let router = router
            // For people who open the address that the server names: it is no part of the contract.
            .route("/", get(|| ready(Redirect::temporary("/docs"))))
            .fallback(request::no_such_route)
            .method_not_allowed_fallback(request::no_such_method)
            .with_state(self.clone());
        let guard = Guard::new(self.access(), table::native);
        router.layer((request::Watch(self.clone()), guard))
    }

    /// Ends all streams and long polls, at once and for good; and it is no longer ready.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    fn handle(&self) -> &Handle {
        &self.0.handle
    }

    fn logs(&self) -> &Arc<Logs> {
        &self.0.logs
    }

    fn access(&self) -> &Access {
        &self.0.access
    }

    /// Ends when [`stop`](Self::stop) was called.
    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.0.stopping.subscribe();
        async move {
            // An error means that the API is gone altogether.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }

    /// For a long poll: what it waits for, or nothing where the time is up or the server ends. A caller who is not let in
    /// any more is told so at once: what there is to see by now is not for him.
    async fn wait<T>(
        &self,
        caller: &Caller,
        wait: Duration,
        later: impl Future<Output = T>,
    ) -> Result<Option<T>, Problem> {
        let mut stay = self.access().stay(caller).await?;
        tokio::select! {
            biased;
            () = stay.over() => {
                stay.again().await?;
                Ok(None)
            }
            () = self.stopped() => Ok(None),
            later = tokio::time::timeout(wait, later) => Ok(later.ok()),
        }
    }

    fn is_stopping(&self) -> bool {
        *self.0.stopping.borrow()
    }
}

/// All routes, and what the document says of them.
fn routes() -> OpenApiRouter<Api> {
    let quick = OpenApiRouter::new()
        .merge(jobs::routes())
        .merge(deployments::routes())
        .merge(groups::routes())
        .merge(events::routes())
        .merge(nodes::routes())
        .merge(agents::routes())
        .merge(logs::routes())
        .merge(tokens::routes())
        .merge(audit::routes())
        .merge(health::routes())
        .layer(from_fn(request::answered_soon));
    // These bound their own time.
    let patient = OpenApiRouter::new()
        .merge(deployments::patient_routes())
        .merge(groups::patient_routes())
        .merge(agents::patient_routes());
    OpenApiRouter::with_openapi(openapi::head())
        .merge(quick)
        .merge(patient)
}
