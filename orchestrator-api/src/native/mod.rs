//! The native HTTP API: `/v1`, health, metrics, and the contract of it all.
//!
//! A handler reads its request (an `Ask`), says it to the engine, and shows what came of it; no rule of a
//! rollout is in here. What is wrong with a request is told all at once, as a problem of RFC 9457
//! ([`Problem`]), and then nothing has reached the engine.
//!
//! Who asks is said by one layer, which puts a [`Caller`] into the request; [`open`] is the one that lets everybody
//! do everything.

mod agents;
mod ask;
mod caller;
mod deployments;
mod events;
mod fields;
mod health;
mod jobs;
mod metrics;
mod nodes;
mod openapi;
mod page;
mod problem;
mod request;
pub mod schema;
mod sse;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

pub use self::caller::{Caller, Role, open};
use self::metrics::Metrics;
pub use self::openapi::document;
pub use self::problem::{Fault, Problem};
use crate::engine::Handle;

/// What every handler stands on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handle: Handle,
    metrics: Metrics,
    document: String,
    stopping: watch::Sender<bool>,
    explaining: Arc<Semaphore>,
}

/// How many logs are read from end to end at a time: it is work for a processor, and others want one too.
const EXPLAINING_MAX: usize = 2;

impl Api {
    /// The API of this engine.
    pub fn new(handle: Handle) -> Self {
        Self(Arc::new(Inner {
            handle,
            metrics: Metrics::new(),
            document: openapi::text(),
            stopping: watch::Sender::new(false),
            explaining: Arc::new(Semaphore::new(EXPLAINING_MAX)),
        }))
    }

    /// All routes, without the layer that says [who](Caller) asks: that is to be the next one around it.
    pub fn routes(&self) -> Router {
        let (router, _) = routes().split_for_parts();
        router
            .fallback(request::no_such_route)
            .method_not_allowed_fallback(request::no_such_method)
            .with_state(self.clone())
    }

    /// What belongs around everything: request ids, logs, counting, and an answer where a handler panics.
    pub fn watched(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), request::watched))
    }

    /// Ends all streams and long polls, at once and for good; and it is no longer ready.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Ends when [`stop`](Self::stop) was called.
    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopping = self.0.stopping.subscribe();
        async move {
            // An error means that the API is gone altogether.
            let _ = stopping.wait_for(|stopping| *stopping).await;
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
        .merge(events::routes())
        .merge(nodes::routes())
        .merge(agents::routes())
        .merge(health::routes())
        .layer(from_fn(request::answered_soon));
    // These bound their own time.
    let patient = OpenApiRouter::new()
        .merge(deployments::patient_routes())
        .merge(agents::patient_routes());
    OpenApiRouter::with_openapi(openapi::head())
        .merge(quick)
        .merge(patient)
}
