//! The server as a whole: store, engine, access, API and listener, begun in this order and ended in the other.

mod error;
mod log;
pub(crate) mod options;
mod retention;
mod signals;

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub use self::error::Error;
pub use self::options::{Format, Keep, Log, Options};
pub(crate) use self::signals::{Signals, Told};
use crate::access::{Access, Opening, start};
use crate::engine::{Engine, Settings};
use crate::native::Api;
use crate::serve::tls::Certificates;
use crate::serve::{Limits, serve};
use crate::store::sqlite::Sqlite;

/// How often it is looked whether the certificate was replaced.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether the store is still in use, at the end.
const STILL_IN_USE: Duration = Duration::from_millis(5);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    opening: Opening,
    tls: bool,
    data_dir: PathBuf,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    discarding: JoinHandle<()>,
    engine: Engine,
    store: Arc<Sqlite>,
}

impl Server {
    /// Begins all of it. To be called within a tokio runtime.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let Options {
            listen,
            data_dir,
            tls_cert,
            tls_key,
            keep,
            log: _,
        } = options;
        let dir = data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Sqlite::open(&dir)).await;
        let store = opened.expect("opening does not panic");
        let store = Arc::new(store.map_err(Error::Store)?);
        let files = tls_cert.as_ref().zip(tls_key.as_ref());
        let opening = start::opening(&*store, *listen, files.is_some(), data_dir).await;
        let opening = opening.map_err(Error::Open)?;
        let tls = match files {
            None => None,
            Some((cert, key)) => {
                let watched = Certificates::watch(cert, key, CERTIFICATE_EVERY).await;
                Some(watched.and_then(|all| all.config()).map_err(Error::Tls)?)
            }
        };
        let unheard = |source| Error::Listen {
            listen: *listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(unheard)?;
        let address = listener.local_addr().map_err(unheard)?;
        let engine = Engine::start(store.clone(), Settings::default()).await;
        let engine = engine.map_err(Error::Engine)?;
        let access = Access::new(store.clone(), opening, Default::default());
        let discarding = tokio::spawn(retention::go_on(engine.handle(), *keep));
        let api = Api::new(engine.handle(), access);
        let (stop, stopped) = oneshot::channel();
        let is_tls = tls.is_some();
        let served = async move {
            let router = api.router();
            let stopped = async {
                // An error means that nobody is left who could say it.
                let _ = stopped.await;
                api.stop();
            };
            serve(listener, tls, router, Limits::default(), stopped).await;
        };
        Ok(Self {
            address,
            opening,
            tls: is_tls,
            data_dir: data_dir.clone(),
            stop,
            served: tokio::spawn(served),
            discarding,
            engine,
            store,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends when the engine did, though nobody told it to.
    async fn broken(&self) {
        self.engine.ended().await;
    }

    /// Lets what is in progress end, and closes everything. Once this is over the directory is free.
    pub async fn stop(self) {
        // An error means that it has stopped already.
        let _ = self.stop.send(());
        if let Err(why) = self.served.await {
            tracing::error!(%why, "the listener ended by a panic");
        }
        self.discarding.abort();
        self.engine.stop().await;
        // Lines of the audit log may still be on their way.
        while Arc::strong_count(&self.store) > 1 {
            sleep(STILL_IN_USE).await;
        }
        let closed = tokio::task::spawn_blocking(move || drop(self.store)).await;
        closed.expect("closing does not panic");
    }
}

/// What people have to know of it, in two lines.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let Self {
            address, data_dir, ..
        } = self;
        let data_dir = data_dir.display();
        writeln!(
            f,
            "The orchestrator listens on {scheme}://{address} and keeps its data in {data_dir}."
        )?;
        match self.opening {
            Opening::Open => write!(
                f,
                "It is open: everyone on this machine is its admin, until the first token is made \
                 (orchestrator token create --role admin --name <who>)."
            ),
            Opening::Closed => write!(
                f,
                "Every request needs a token; who has none left stops it, and makes one \
                 (orchestrator token create --data-dir {data_dir} --role admin --name <who>)."
            ),
        }
    }
}

/// Runs a server until the process is told to end by SIGTERM or SIGINT; a second signal ends it at once.
pub fn run(options: Options) -> Result<(), Error> {
    log::begin(&options.log);
    let runtime = tokio::runtime::Runtime::new().map_err(Error::System)?;
    let ran = runtime.block_on(async {
        let mut signals = Signals::new().map_err(Error::System)?;
        let server = Server::start(&options).await?;
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stdout(), "{server}");
        let by = tokio::select! {
            by = signals.next() => by,
            () = server.broken() => return Err(Error::Broken),
        };
        tracing::info!(by = by.as_str(), "stopping: what is in progress may end");
        tokio::select! {
            () = server.stop() => {
                tracing::info!("stopped");
                Ok(())
            }
            () = signals.again() => Err(Error::AtOnce),
        }
    });
    // Whatever still runs was either ended in order, or is not to be waited for.
    runtime.shutdown_background();
    ran
}
