//! Who is let in, and what they may do.
//!
//! A request shows a [token], as `Authorization: Bearer` or as the password of HTTP Basic. [`Access::check`] says whose it
//! is; the [guard](Guard) before each route says whether its [role] may, by one [table](Role::may), and writes
//! down what was denied and what was done.
//!
//! **A revocation** through this [`Access`] is seen by the next request, and ends what is [open](Stay). One by another
//! process on the same store is seen by requests after [`Settings::believed_for`] at the latest, and not by what is open;
//! the embedded store has but one process.
//!
//! **Failures** are counted for each address, and once there are too many the answer is 429. That never keeps out who
//! shows a token that is good: it is looked at before anything is counted, and the reads of the store that this costs
//! are bounded.

pub mod audit;
mod cache;
mod denied;
mod guard;
mod headers;
pub mod role;
pub mod routes;
pub mod start;
mod stay;
mod throttle;
pub mod token;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderValue};
use orchestrator_core::Time;
use orchestrator_core::fleet::NodeName;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, Semaphore, watch};

use self::audit::Journal;
use self::cache::{Before, Cache};
pub use self::denied::{Denied, JoinError};
pub use self::guard::{Audited, Guard, Guarded, Table};
use self::headers::{Given, Via};
pub(crate) use self::headers::{REQUEST_BYTES_MAX, X_REQUEST_ID};
pub use self::role::{Class, Role};
pub use self::start::Opening;
use self::stay::Holders;
pub use self::stay::Stay;
use self::throttle::Throttle;
pub(crate) use self::throttle::network;
use self::token::{Kept, Made, New, TokenError};
use crate::engine::Who;
use crate::store::{Store, TokenRow};

/// How many reads of tokens go on at the same time.
const READS_MAX: usize = 32;
/// How exact the last use of a token is.
const LAST_USED_MILLIS: u64 = 60 * 60 * 1000;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// So many tokens are remembered: more than are in use, or the store is read for each request.
    pub cached_max: usize,
    /// For how long what was read of a token is believed. While other processes may change tokens in the same store,
    /// this is how long a token may outlive its revocation by one of them.
    pub believed_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cached_max: 32_768,
            believed_for: Duration::from_secs(5),
        }
    }
}

/// Knows the tokens. Its clones are one.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    journal: Journal,
    cache: Cache,
    throttle: Throttle,
    reads: Semaphore,
    holders: Holders,
    open: watch::Sender<bool>,
    /// Held while tokens change here: what is read, changed and written back is seldom changed in between, and the
    /// store takes care of the rest. Within: which node has which token, once somebody asked.
    changing: Mutex<Option<HashMap<String, String>>>,
}

/// What is known of a token.
#[derive(Debug)]
struct Known {
    id: String,
    hash: [u8; 32],
    kept: Kept,
    used_at: AtomicU64,
}

impl Known {
    fn new(id: String, hash: [u8; 32], kept: Kept) -> Self {
        let used_at = kept.last_used_at.map_or(0, Time::as_millis).into();
        Self {
            id,
            hash,
            kept,
            used_at,
        }
    }

    /// Its name and id.
    fn name(&self) -> String {
        format!("{} ({})", self.kept.name, self.id)
    }

    fn good_at(&self, now: Time) -> Result<(), Denied> {
        if self.kept.is_good(now) {
            return Ok(());
        }
        Err(match (self.kept.revoked_at, self.kept.expires_at) {
            (None, Some(at)) => Denied::Expired(at),
            _ => Denied::Revoked,
        })
    }
}

/// Who makes a request. To be taken by a handler as an argument.
#[derive(Clone, Debug)]
pub struct Caller {
    access: Access,
    /// `None`: anyone, where the server is open.
    known: Option<Arc<Known>>,
    via: Via,
    request: HeaderValue,
}

impl Caller {
    /// The token's name and id, or `anonymous`.
    pub fn name(&self) -> String {
        match &self.known {
            Some(known) => known.name(),
            None => "anonymous".to_owned(),
        }
    }

    /// Whether a token was shown, as it need not be where the server is open.
    pub fn has_token(&self) -> bool {
        self.known.is_some()
    }

    /// Where the server is open, everyone is its admin.
    pub fn role(&self) -> Role {
        self.known
            .as_ref()
            .map_or(Role::Admin, |known| known.kept.role)
    }

    /// Whether a route of this class may be used. Where the server is open, everyone speaks for the nodes too.
    pub fn may(&self, class: Class) -> bool {
        self.known
            .as_ref()
            .is_none_or(|known| known.kept.role.may(class))
    }

    /// The node whose agent this is. The token says it; what the request says besides has to be the same. Only where
    /// the server is open, the request alone says it.
    pub fn speaks_for(&self, claimed: Option<&str>) -> Result<NodeName, Denied> {
        let own = self
            .known
            .as_ref()
            .and_then(|known| known.kept.node.as_deref());
        match (&self.known, own, claimed) {
            (None, _, Some(claimed)) => Ok(claimed.into()),
            (None, _, None) => Err(Denied::NoNode),
            (Some(_), Some(own), None) if self.role() == Role::Node => Ok(own.into()),
            (Some(_), Some(own), Some(claimed)) if self.role() == Role::Node && own == claimed => {
                Ok(own.into())
            }
            _ => Err(Denied::OtherNode),
        }
    }

    /// Whether he is let in now, as he would be if he came again: to be asked once more when time has passed.
    pub async fn again(&self) -> Result<(), Denied> {
        match &self.known {
            Some(known) => {
                let known = self.access.look_up(known.hash, &known.id).await?;
                known.good_at(now())
            }
            None if self.access.is_open() => Ok(()),
            None => Err(Denied::Missing),
        }
    }

    /// For the engine, and the audit log.
    pub fn who(&self) -> Who {
        Who {
            name: self.name(),
            request: headers::text(&self.request).to_owned(),
        }
    }
}

/// Who it is. Where it is denied, also whose token it is, if that is known.
type Checked = Result<Caller, (Option<String>, Denied)>;

impl Access {
    /// With the tokens of this store. To be called within a tokio runtime.
    pub fn new(store: Arc<dyn Store>, opening: Opening, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            journal: Journal::start(store.clone()),
            store,
            cache: Cache::new(settings.cached_max, settings.believed_for),
            throttle: Throttle::new(),
            reads: Semaphore::new(READS_MAX),
            holders: Holders::default(),
            open: watch::Sender::new(opening == Opening::Open),
            changing: Mutex::default(),
        }))
    }

    /// Whether everyone is let in without a token.
    pub fn is_open(&self) -> bool {
        *self.0.open.borrow()
    }

    /// Says whose request this is. `from` is the address that it comes from, as far as that is known.
    pub async fn check(&self, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Denied> {
        let request = headers::request(headers);
        let checked = match self.check_now(headers, from, &request) {
            Ok(checked) => checked,
            Err(given) => self.check_given(given, from, request).await,
        };
        checked.map_err(|(_, denied)| denied)
    }

    /// The same where the store need not be asked; the error is what it has to be asked about.
    fn check_now(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
        request: &HeaderValue,
    ) -> Result<Checked, Given> {
        let given = match headers::given(headers) {
            Ok(Some(given)) => given,
            Ok(None) if self.is_open() => {
                return Ok(Ok(Caller {
                    access: self.clone(),
                    known: None,
                    via: Via::Nothing,
                    request: request.clone(),
                }));
            }
            Ok(None) => return Ok(Err((None, Denied::Missing))),
            Err(denied) => return Ok(Err((None, self.failed(from, denied)))),
        };
        match self.0.cache.get(&given.token.hash()) {
            Ok(known) => Ok(self.check_known(known, given.via, from, request.clone())),
            Err(_) => Err(given),
        }
    }

    async fn check_given(&self, given: Given, from: IpAddr, request: HeaderValue) -> Checked {
        let Given { token, via } = given;
        match self.look_up(token.hash(), token.id()).await {
            Ok(known) => self.check_known(known, via, from, request),
            Err(denied @ Denied::Unknown) => Err((None, self.failed(from, denied))),
            Err(other) => Err((None, other)),
        }
    }

    fn check_known(
        &self,
        known: Arc<Known>,
        via: Via,
        from: IpAddr,
        request: HeaderValue,
    ) -> Checked {
        let now = now();
        if let Err(denied) = known.good_at(now) {
            return Err((Some(known.name()), self.failed(from, denied)));
        }
        self.used(&known, now);
        Ok(Caller {
            access: self.clone(),
            known: Some(known),
            via,
            request,
        })
    }

    fn failed(&self, from: IpAddr, denied: Denied) -> Denied {
        match self.0.throttle.fail(from) {
            Ok(()) => denied,
            Err(after) => Denied::TooMany(after),
        }
    }

    async fn look_up(&self, hash: [u8; 32], id: &str) -> Result<Arc<Known>, Denied> {
        let before: Before = match self.0.cache.get(&hash) {
            Ok(known) => return Ok(known),
            Err(before) => before,
        };
        let read = {
            let _one_of_few = self.0.reads.acquire().await.expect("never closed");
            self.0.store.token(hash).await
        };
        let row = read.map_err(|why| Denied::Store(Arc::new(why.into())))?;
        let Some(row) = row.filter(|row| bool::from(row.hash.ct_eq(&hash))) else {
            let unspent = self.unspent(id, &hash).await?;
            let (row, kept) = unspent.ok_or(Denied::Unknown)?;
            return Ok(Arc::new(Known::new(row.id, hash, kept)));
        };
        let kept = Kept::read(&row).map_err(|why| Denied::Store(Arc::new(why)))?;
        let known = Arc::new(Known::new(row.id, hash, kept));
        self.0.cache.put(known.clone(), before);
        Ok(known)
    }

    /// A join token whose answer was perhaps lost.
    async fn unspent(&self, id: &str, hash: &[u8; 32]) -> Result<Option<(TokenRow, Kept)>, Denied> {
        let read = {
            let _one_of_few = self.0.reads.acquire().await.expect("never closed");
            token::by_id(&*self.0.store, id).await
        };
        let kept = match read {
            Err(TokenError::NoSuchToken(_)) => return Ok(None),
            read => read.and_then(|row| Ok((Kept::read(&row)?, row))),
        };
        let (kept, row) = kept.map_err(|why| Denied::Store(Arc::new(why)))?;
        Ok(kept.unspent(hash).map(|kept| (row, kept)))
    }

    /// Writes down that a person's token is in use, about once an hour; an agent's lease says it of its node. Of a
    /// node's token only the first use: from then on its join token is good for nothing.
    fn used(&self, known: &Known, now: Time) {
        let used_at = known.used_at.load(Ordering::Relaxed);
        let lately = now.as_millis() < used_at.saturating_add(LAST_USED_MILLIS);
        let is_first = known.kept.role == Role::Node && known.kept.joined.is_some();
        if lately || !(known.kept.role.is_of_people() || is_first) {
            return;
        }
        let first = known.used_at.compare_exchange(
            used_at,
            now.as_millis(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if first.is_ok() {
            let access = self.clone();
            let (id, hash) = (known.id.clone(), known.hash);
            tokio::spawn(async move {
                if let Err(why) = access.write_used(hash, now).await {
                    tracing::warn!(token = id, %why, "the last use of a token was not written down");
                }
            });
        }
    }

    async fn write_used(&self, hash: [u8; 32], now: Time) -> Result<(), TokenError> {
        let _changing = self.0.changing.lock().await;
        let Some(row) = self.0.store.token(hash).await? else {
            return Ok(());
        };
        let mut kept = Kept::read(&row)?;
        let before = kept.last_used_at.map_or(0, Time::as_millis);
        if now.as_millis() < before.saturating_add(LAST_USED_MILLIS) {
            // Another request with it came at the same time.
            return Ok(());
        }
        kept.last_used_at = Some(now);
        let has_arrived = kept.joined.take().is_some();
        let who = Who {
            name: format!("{} ({})", kept.name, row.id),
            request: String::new(),
        };
        let line = token::said(&who, "begin to use token", &row.id, &kept);
        let used = kept.row(&row.id, hash);
        // Where somebody else changed the token meanwhile, that is what matters.
        let id = row.id.clone();
        self.0.store.put_token(used, Some(row), line).await?;
        if has_arrived {
            self.0.cache.forget(&id);
        }
        Ok(())
    }

    /// Makes a token. The first one for a person closes a server that was open.
    pub async fn create(&self, new: New, who: Who) -> Result<Made, TokenError> {
        self.make(new, None, who, None).await
    }

    /// The same for a caller, who is to be let in when it is made; and under the same key once: its secret cannot be
    /// shown again.
    pub async fn create_once(
        &self,
        new: New,
        key: Option<String>,
        caller: &Caller,
    ) -> Result<Made, TokenError> {
        self.make(new, key, caller.who(), Some(caller.clone()))
            .await
    }

    async fn make(
        &self,
        new: New,
        key: Option<String>,
        who: Who,
        caller: Option<Caller>,
    ) -> Result<Made, TokenError> {
        let access = self.clone();
        whole(async move {
            let inner = &access.0;
            let mut nodes = inner.changing.lock().await;
            // Of two that came at once while the server was open, the second finds it closed.
            if let Some(caller) = caller {
                caller.again().await?;
            }
            let closes = access.is_open() && new.role.is_of_people();
            if closes && new.role != Role::Admin {
                return Err(TokenError::AdminFirst);
            }
            *nodes = None;
            let made = token::create(&*inner.store, new, key.as_deref(), &who).await?;
            if closes {
                inner.open.send_replace(false);
                tracing::info!(token = made.id, "from now on every request needs a token");
            }
            Ok(made)
        })
        .await
    }

    /// Revokes a token. When this answers, no request is let in with it, and what was open with it is over.
    pub async fn revoke(&self, id: &str, who: Who) -> Result<(), TokenError> {
        let access = self.clone();
        let id = id.to_owned();
        whole(async move {
            let mut nodes = access.0.changing.lock().await;
            *nodes = None;
            access.revoke_one(&id, &who).await
        })
        .await
    }

    async fn revoke_one(&self, id: &str, who: &Who) -> Result<(), TokenError> {
        let revoked = token::revoke(&*self.0.store, id, who).await;
        // Also where the store failed: it may have been written.
        self.ended(id);
        revoked
    }

    /// Tokens after an id, in the order of their ids.
    pub async fn list(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> Result<token::Tokens, TokenError> {
        token::list(&*self.0.store, after, limit).await
    }

    /// Gives an agent the token of its node, for its join token, which is no longer good. `None` where it needs no
    /// other: it has the node's token already, or the server is open.
    ///
    /// A node's token is not replaced by whoever has a join token for any node: that takes one for this node. What was
    /// given for this very join token and was never used is replaced by another: the answer was lost.
    pub async fn join(&self, caller: &Caller, node: &str) -> Result<Option<Made>, JoinError> {
        token::check_node(node)?;
        let Some(known) = caller.known.clone() else {
            return Ok(None);
        };
        match (known.kept.role, known.kept.node.as_deref()) {
            (Role::Node, Some(own)) if own == node => return Ok(None),
            (Role::Join, None) => {}
            (Role::Join, Some(own)) if own == node => {}
            (Role::Join, Some(_)) if known.kept.joined.is_some() => {
                return Err(Denied::Unknown.into());
            }
            _ => return Err(Denied::OtherNode.into()),
        }
        let access = self.clone();
        let (node, who) = (node.to_owned(), caller.who());
        let made = whole(async move { access.exchange(&known, node, &who).await }).await?;
        Ok(Some(made))
    }

    async fn exchange(&self, known: &Known, node: String, who: &Who) -> Result<Made, JoinError> {
        let mut nodes = self.0.changing.lock().await;
        // Taken out, and put back only where all went well: else it is read again.
        let mut has = match nodes.take() {
            Some(has) => has,
            None => self.nodes().await?,
        };
        // Read again, now that nobody else changes it: of two that came at once, one finds it gone.
        let read = self.0.store.token(known.hash).await;
        let (row, kept) = match read.map_err(TokenError::from)? {
            Some(row) => {
                let kept = Kept::read(&row)?;
                (row, kept)
            }
            None => {
                let unspent = self.unspent(&known.id, &known.hash).await?;
                unspent.ok_or(Denied::Unknown)?
            }
        };
        if kept.role != Role::Join || !kept.is_good(now()) {
            return Err(Denied::Revoked.into());
        }
        // Of two that came at once with different names, too.
        if kept.joined.is_some() && kept.node.as_ref() != Some(&node) {
            return Err(Denied::Unknown.into());
        }
        if let Some(token) = has.get(&node).filter(|token| **token != row.id) {
            if kept.node.is_none() {
                let token = token.clone();
                *nodes = Some(has);
                return Err(JoinError::Taken { node, token });
            }
            self.revoke_one(token, who).await?;
        }
        let id = row.id.clone();
        let turned = token::turn(&*self.0.store, row, known.hash, kept, &node, who).await;
        self.ended(&id);
        let token = match turned {
            // By another process, and it was the first.
            Err(TokenError::Changed(_)) => return Err(Denied::Unknown.into()),
            turned => turned?,
        };
        has.insert(node, id.clone());
        *nodes = Some(has);
        Ok(Made { id, token })
    }

    /// To be called when it is written that what was known of a token is no longer so.
    fn ended(&self, id: &str) {
        // In this order: who comes in between reads the store, and who came before is woken.
        self.0.cache.forget(id);
        self.0.holders.end(id);
    }

    /// Which node has which token that is good.
    async fn nodes(&self) -> Result<HashMap<String, String>, TokenError> {
        let now = now();
        let mut nodes = HashMap::new();
        token::each(&*self.0.store, |row, kept| {
            if let (Role::Node, true, Some(node)) = (kept.role, kept.is_good(now), kept.node) {
                nodes.insert(node, row.id.clone());
            }
        })
        .await?;
        Ok(nodes)
    }
}

/// Does it to its end, even if whoever asked for it goes away.
async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    Time::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
