//! Connections: accepting them, and ending them in good order.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;

use super::Api;
use super::caller::open;
use crate::engine::Handle;

/// For how long a request's head may take to come in.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// For how long requests under way are waited for at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// Serves the native API to everybody, until `shutdown` ends; then ends streams and long polls, and waits for the
/// requests that are under way.
pub async fn serve<L: Listener>(listener: L, handle: Handle, shutdown: impl Future<Output = ()>) {
    let api = Api::new(handle);
    let router = api.watched(api.routes().layer(from_fn(open)));
    serve_router(listener, &api, router, shutdown).await;
}

/// The same of other routes around or beside those of the API.
pub async fn serve_router<L: Listener>(
    mut listener: L,
    api: &Api,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN);
    server.http2().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(io), service);
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            // A client that went away, or spoke no HTTP.
            if let Err(why) = connection.await {
                tracing::debug!(%why, "a connection ended");
            }
        });
    }
    drop(listener);
    api.stop();
    if tokio::time::timeout(DRAIN_WITHIN, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests were not answered before the end");
    }
}
