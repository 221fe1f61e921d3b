//! The certificate of the server, and its replacement while the server runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// Longer than any chain: a wrong file is not read to its end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate with its key, as they stand in two PEM files now. Connections keep the one that they began with.
#[derive(Debug)]
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The bytes of the two files. Compared whole: they are small, and neither their times nor their sizes have to change
/// where a link is turned to another file.
#[derive(Debug, Eq, PartialEq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    /// Reads the files, and begins to look after them: every so often, and when the process gets SIGHUP. A pair that
    /// cannot be used is logged, and the one before it stays. To be called within a tokio runtime.
    pub async fn watch(cert: &Path, key: &Path, every: Duration) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::read(cert, key).await?;
        let pair = files.pair(cert, key, &provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let this = Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            provider,
            current,
        };
        let hangup = signal(SignalKind::hangup()).map_err(TlsError::Signal)?;
        let watcher = Watcher {
            cert: this.cert.clone(),
            key: this.key.clone(),
            provider: this.provider.clone(),
            current: Arc::downgrade(&this.current),
            tried: files,
            unread: None,
        };
        tokio::spawn(watcher.run(every, hangup));
        Ok(this)
    }

    /// What connections are accepted with: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|source| TlsError::unusable(&self.cert, source))?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Files {
    async fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            cert: read(cert).await?,
            key: read(key).await?,
        })
    }

    fn pair(
        &self,
        cert: &Path,
        key: &Path,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let pem = |file: &Path, source| TlsError::Pem {
            file: file.to_owned(),
            source,
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|source| pem(cert, source))?;
        if chain.is_empty() {
            return Err(pem(cert, pem::Error::NoItemsFound));
        }
        let secret = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| pem(key, source))?;
        // Checks that the two belong together.
        CertifiedKey::from_der(chain, secret, provider)
            .map_err(|source| TlsError::unusable(cert, source))
    }
}

async fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    use tokio::io::AsyncReadExt;
    let read = async {
        let mut bytes = Vec::new();
        let opened = tokio::fs::File::open(file).await?;
        opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    read.await.map_err(|source| TlsError::Unreadable {
        file: file.to_owned(),
        source,
    })
}

/// Looks after the files for as long as somebody uses them.
struct Watcher {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: std::sync::Weak<Current>,
    tried: Files,
    // What was said last of files that could not be read: it is not said again.
    unread: Option<String>,
}

impl Watcher {
    async fn run(mut self, every: Duration, mut hangup: Signal) {
        loop {
            tokio::select! {
                () = sleep(every) => {}
                Some(()) = hangup.recv() => {}
            }
            let Some(current) = self.current.upgrade() else {
                return;
            };
            if let Some(pair) = self.look().await {
                current.0.store(Arc::new(pair));
                tracing::info!(cert = %self.cert.display(), "the certificate was replaced");
            }
        }
    }

    /// A pair that is new and can be used.
    async fn look(&mut self) -> Option<CertifiedKey> {
        let kept = "the certificate stays the one before";
        let files = match Files::read(&self.cert, &self.key).await {
            Ok(files) => files,
            Err(why) => {
                let why = why.to_string();
                if self.unread.as_ref() != Some(&why) {
                    tracing::error!(why, "{kept}");
                    self.unread = Some(why);
                }
                return None;
            }
        };
        self.unread = None;
        if files == self.tried {
            return None;
        }
        let pair = files.pair(&self.cert, &self.key, &self.provider);
        self.tried = files;
        pair.inspect_err(|why| tracing::error!(%why, "{kept}")).ok()
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} is no PEM file of the kind that is needed: {source}", .file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate cannot be used with its key.
    #[error("the certificate in {} cannot be used with its key: {source}", .file.display())]
    Unusable {
        /// Where the certificate is.
        file: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The process cannot hear SIGHUP.
    #[error("SIGHUP cannot be listened to: {0}")]
    Signal(io::Error),
}

impl TlsError {
    fn unusable(file: &Path, source: rustls::Error) -> Self {
        Self::Unusable {
            file: file.to_owned(),
            source,
        }
    }
}
