//! Tokens: how they are made and read, and what is kept of them.
//!
//! `orc_<id>_<secret><sum>`: a prefix that scanners for leaked secrets can look for
//! (`orc_[0-9a-z]{12}_[0-9a-z]{58}`), the id in clear so that a token can be found in the list, 260 bits from the
//! system's source of randomness, and a sum over all of it that tells a slip of the hand from a token that is no
//! longer good. Only a hash is kept. A hash made for speed is right here: nobody guesses 260 bits.

use std::fmt;

use orchestrator_core::{Span, Time};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::audit::{self, Record};
use super::role::Role;
use crate::engine::Who;
use crate::store::{Store, StoreError, TokenRow};

const PREFIX: &str = "orc_";
const ID_LEN: usize = 12;
const SECRET_LEN: usize = 52;
const SUM_LEN: usize = 6;
const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + SUM_LEN;
/// Crockford's: no letter that is taken for another. Each stands for five bits.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const NAME_BYTES_MAX: usize = 64;
/// As long as the name of a host may be.
const NODE_BYTES_MAX: usize = 253;
const PAGE: u32 = 1000;
/// How often a token is read again because somebody else changed it meanwhile: its last use, once an hour.
const TRIES: usize = 8;
const JOIN_WITHIN: Span = Span::from_secs(60 * 60);

/// A token as its holder has it. It is shown once, and printed nowhere by accident.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

impl Token {
    fn random(id: &str) -> Result<Self, TokenError> {
        let mut text = format!("{PREFIX}{id}_{}", letters::<SECRET_LEN>()?);
        text.push_str(&sum(&text));
        Ok(Self(text))
    }

    /// Reads what somebody sent as a token.
    pub fn read(text: &str) -> Result<Self, NoToken> {
        let after_prefix = text.strip_prefix(PREFIX).ok_or(NoToken::Foreign)?;
        let shaped = text.len() == TOKEN_LEN
            && after_prefix.bytes().enumerate().all(|(at, byte)| {
                if at == ID_LEN {
                    byte == b'_'
                } else {
                    LETTERS.contains(&byte)
                }
            });
        if !shaped {
            return Err(NoToken::Typo);
        }
        let (summed, said) = text.split_at(TOKEN_LEN - SUM_LEN);
        if sum(summed) == said {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoToken::Typo)
        }
    }

    /// The whole text, to be handed to its holder and to nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What it is called.
    pub(super) fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ID_LEN]
    }

    /// What is kept of it.
    pub(super) fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.0.as_bytes()).as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.0[..PREFIX.len() + ID_LEN])
    }
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoToken {
    /// Something else altogether.
    #[error("this is no token of this server: they begin with \"orc_\"")]
    Foreign,
    /// Cut short, run together, or a letter wrong.
    #[error("the token is mistyped or cut short: copy it again, all {TOKEN_LEN} letters of it")]
    Typo,
}

/// Random letters, five bits each.
pub(super) fn letters<const N: usize>() -> Result<String, TokenError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(TokenError::NoRandomness)?;
    // 256 is a multiple of 32: every letter is as likely as every other.
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte & 31)]);
    Ok(bytes.into_iter().map(letter).collect())
}

fn sum(text: &str) -> String {
    hashed::<SUM_LEN>(text)
}

/// Letters that follow from a text.
fn hashed<const N: usize>(text: &str) -> String {
    let hash = blake3::hash(text.as_bytes());
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte & 31)]);
    hash.as_bytes()[..N].iter().map(letter).collect()
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// What people call it; two may have the same name.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for: always there for the role `node`, and never for people. A `join` token without it is
    /// good for any node that is new.
    pub node: Option<String>,
    /// From when on it is no longer good. A `join` token always ends: without this, an hour after it was made.
    pub expires_at: Option<Time>,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// What it is called in lists and when it is revoked.
    pub id: String,
    /// It will not be seen again.
    pub token: Token,
}

/// What is kept of a token beside its hash.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    pub(super) created_at: Time,
    pub(super) created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_used_at: Option<Time>,
    /// Of a node's token that nobody has used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) joined: Option<Joined>,
}

/// The join token that a node's token was given for. Whether the answer has arrived is known when the node's token is
/// used: until then the join token is good for the same node again, as long as it would have been.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Joined {
    hash: [u8; 32],
    until: Option<Time>,
}

impl Kept {
    /// The join token that this was, if it has this hash and may be used for the same node again.
    pub(super) fn unspent(self, hash: &[u8; 32]) -> Option<Self> {
        let joined = self.joined.as_ref()?;
        let same = bool::from(joined.hash.ct_eq(hash));
        (same && self.revoked_at.is_none()).then_some(Self {
            role: Role::Join,
            expires_at: joined.until,
            ..self
        })
    }

    pub(super) fn read(row: &TokenRow) -> Result<Self, TokenError> {
        serde_json::from_str(&row.record).map_err(|source| TokenError::Unreadable {
            id: row.id.clone(),
            source,
        })
    }

    pub(super) fn row(&self, id: &str, hash: [u8; 32]) -> TokenRow {
        TokenRow {
            id: id.to_owned(),
            hash,
            record: serde_json::to_string(self).expect("a record of texts and numbers"),
        }
    }

    pub(super) fn is_good(&self, now: Time) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }
}

/// A token as it is listed: never its secret, nor what is kept of it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// What it is called.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it is good now.
    pub active: bool,
    /// When it was made, as RFC 3339.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// From when on it is no longer good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// When it was last used, give or take an hour. Of a node's, the node's own record says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// Tokens in the order of their ids.
#[derive(Clone, Debug, Serialize)]
pub struct Tokens {
    /// Some of them.
    pub items: Vec<Listed>,
    /// After which id the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Why a token was not made, revoked or listed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A name that would not do in a list or a log.
    #[error(
        "the name of a token has 1 to {NAME_BYTES_MAX} bytes that can be seen, no space at its ends, and nothing that changes how a line reads"
    )]
    Name,
    /// A node's name that would not do.
    #[error("the name of a node has 1 to {NODE_BYTES_MAX} bytes and no control characters")]
    NodeName,
    /// A node's token that names no node.
    #[error("a token of the role node is for one node: say which")]
    NoNode,
    /// A person's token that names a node.
    #[error("only tokens of the roles node and join are for a node")]
    NodeOfPerson,
    /// Whoever wants it is not let in any more.
    #[error(transparent)]
    Denied(#[from] super::Denied),
    /// Whoever else comes first would be locked out, or could make himself admin.
    #[error("the server is open to everyone on this machine: make an admin token first")]
    AdminFirst,
    /// The same was asked for before, and answered then.
    #[error(
        "token {0} was made under this Idempotency-Key, and its secret is shown once only: if it is lost, revoke it \
         and make another under another key"
    )]
    KeyUsed(String),
    /// There is no token with this id.
    #[error("there is no token {0}")]
    NoSuchToken(String),
    /// Somebody else changed it at the same time.
    #[error("token {0} was changed by somebody else at the same time: look at it, and try again")]
    Changed(String),
    /// The operating system gave no random bytes.
    #[error("the system gives no random numbers")]
    NoRandomness(#[source] getrandom::Error),
    /// What is kept of a token cannot be read.
    #[error("what is kept of token {id} cannot be read")]
    Unreadable {
        /// Which.
        id: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// Makes a token, directly in the store; under the same key once. A running server's are made by
/// [`Access::create`](super::Access::create).
pub async fn create(
    store: &dyn Store,
    new: New,
    key: Option<&str>,
    who: &Who,
) -> Result<Made, TokenError> {
    let New {
        name,
        role,
        node,
        expires_at,
    } = new;
    if !is_printable(&name, NAME_BYTES_MAX) {
        return Err(TokenError::Name);
    }
    match (role, &node) {
        (Role::Node, None) => return Err(TokenError::NoNode),
        (Role::Node | Role::Join, Some(node)) => check_node(node)?,
        (Role::Join, None) => {}
        (_, Some(_)) => return Err(TokenError::NodeOfPerson),
        (_, None) => {}
    }
    // Under the same key it has the same id, and no two have that.
    let id = match key {
        Some(key) => hashed::<ID_LEN>(key),
        None => letters::<ID_LEN>()?,
    };
    let token = Token::random(&id)?;
    let now = super::now();
    let expires_at = expires_at.or_else(|| (role == Role::Join).then(|| now.after(JOIN_WITHIN)));
    let kept = Kept {
        name,
        role,
        node,
        created_at: now,
        created_by: who.name.clone(),
        expires_at,
        revoked_at: None,
        last_used_at: None,
        joined: None,
    };
    let line = said(who, "create token", &id, &kept);
    let row = kept.row(&id, token.hash());
    if store.put_token(row, None, line).await? {
        Ok(Made { id, token })
    } else {
        // Without a key: there is one with this id, of 2^60.
        Err(TokenError::KeyUsed(id))
    }
}

/// The same in the data directory of a server that does not run: how the first token is made. To be called within a
/// tokio runtime.
pub async fn create_offline(data_dir: &std::path::Path, new: New) -> Result<Made, TokenError> {
    let dir = data_dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || crate::store::sqlite::Sqlite::open(&dir));
    let store = opened.await.expect("opening does not panic")?;
    let who = Who {
        name: "the command line".to_owned(),
        request: "offline".to_owned(),
    };
    create(&store, new, None, &who).await
}

/// Tokens after an id.
pub async fn list(
    store: &dyn Store,
    after: Option<String>,
    limit: u32,
) -> Result<Tokens, TokenError> {
    let limit = limit.clamp(1, PAGE);
    let now = super::now();
    let mut rows = store.tokens(after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let items: Vec<_> = rows
        .iter()
        .map(|row| Ok(listed(row.id.clone(), Kept::read(row)?, now)))
        .collect::<Result<_, TokenError>>()?;
    let next = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Tokens { items, next })
}

fn listed(id: String, kept: Kept, now: Time) -> Listed {
    let text = |at: Time| at.to_string();
    Listed {
        id,
        active: kept.is_good(now),
        name: kept.name,
        role: kept.role,
        node: kept.node,
        created_at: kept.created_at.to_string(),
        created_by: kept.created_by,
        expires_at: kept.expires_at.map(text),
        revoked_at: kept.revoked_at.map(text),
        last_used_at: kept.last_used_at.map(text),
    }
}

/// Revokes a token, if it is not already.
pub(super) async fn revoke(store: &dyn Store, id: &str, who: &Who) -> Result<(), TokenError> {
    for _ in 0..TRIES {
        let row = by_id(store, id).await?;
        let mut kept = Kept::read(&row)?;
        if kept.revoked_at.is_some() {
            return Ok(());
        }
        kept.revoked_at = Some(super::now());
        let line = said(who, "revoke token", id, &kept);
        let revoked = kept.row(id, row.hash);
        if store.put_token(revoked, Some(row), line).await? {
            return Ok(());
        }
    }
    Err(TokenError::Changed(id.to_owned()))
}

pub(super) async fn by_id(store: &dyn Store, id: &str) -> Result<TokenRow, TokenError> {
    let none = || TokenError::NoSuchToken(id.chars().take(ID_LEN * 2).collect());
    // What comes before it in the order and is nearest to it. Ids have one length, so few lie between.
    let before = id
        .len()
        .checked_sub(1)
        .and_then(|end| id.get(..end))
        .ok_or_else(none)?;
    let mut rows = store.tokens(Some(before.to_owned()), 32).await?.into_iter();
    rows.find(|row| row.id == id).ok_or_else(none)
}

/// All tokens, page by page.
pub(super) async fn each(
    store: &dyn Store,
    mut see: impl FnMut(&TokenRow, Kept),
) -> Result<(), TokenError> {
    let mut after = None;
    loop {
        let rows = store.tokens(after, PAGE).await?;
        for row in &rows {
            see(row, Kept::read(row)?);
        }
        let Some(last) = rows.into_iter().next_back() else {
            return Ok(());
        };
        after = Some(last.id);
    }
}

/// Turns a join token with this hash into the token of this node, in one write: whatever is known of the row by its old
/// secret is gone with it.
pub(super) async fn turn(
    store: &dyn Store,
    row: TokenRow,
    hash: [u8; 32],
    join: Kept,
    node: &str,
    who: &Who,
) -> Result<Token, TokenError> {
    let token = Token::random(&row.id)?;
    let until = join.expires_at;
    let kept = Kept {
        role: Role::Node,
        node: Some(node.to_owned()),
        expires_at: None,
        last_used_at: None,
        joined: Some(Joined { hash, until }),
        ..join
    };
    let line = said(who, "use join token", &row.id, &kept);
    let turned = kept.row(&row.id, token.hash());
    let id = row.id.clone();
    if store.put_token(turned, Some(row), line).await? {
        Ok(token)
    } else {
        Err(TokenError::Changed(id))
    }
}

pub(super) fn check_node(name: &str) -> Result<(), TokenError> {
    if is_printable(name, NODE_BYTES_MAX) {
        Ok(())
    } else {
        Err(TokenError::NodeName)
    }
}

fn is_printable(text: &str, bytes_max: usize) -> bool {
    // Who reads a list of tokens is not to be shown another one.
    let misleads = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    (1..=bytes_max).contains(&text.len()) && text.trim() == text && !text.chars().any(misleads)
}

pub(super) fn said(who: &Who, action: &str, id: &str, kept: &Kept) -> crate::store::Audit {
    let Kept {
        name, role, node, ..
    } = kept;
    let role = role.as_str();
    let object = match node {
        Some(node) => format!("token {id} ({name}, {role} {node})"),
        None => format!("token {id} ({name}, {role})"),
    };
    Record {
        who: (&who.name).into(),
        request: (&who.request).into(),
        action: action.into(),
        object: object.into(),
        outcome: audit::DONE.into(),
    }
    .at(super::now())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LETTERS, NoToken, TOKEN_LEN, Token};

    fn token() -> Token {
        Token::random("0123456789ab").expect("randomness")
    }

    #[test]
    fn a_token_is_read_as_it_was_made_and_shows_only_its_id() {
        let token = token();
        assert_eq!(token.reveal().len(), TOKEN_LEN);
        assert_eq!(Token::read(token.reveal()), Ok(token.clone()));
        assert_eq!(format!("{token:?}"), "orc_0123456789ab…");
        assert_ne!(token, self::token());
    }

    #[test]
    fn what_is_cut_short_or_changed_is_a_typo_and_the_rest_is_foreign() {
        let token = token();
        let text = token.reveal();
        for end in "orc_".len()..text.len() {
            assert_eq!(Token::read(&text[..end]), Err(NoToken::Typo));
        }
        assert_eq!(Token::read(&format!("{text}0")), Err(NoToken::Typo));
        assert_eq!(Token::read(&text.to_uppercase()), Err(NoToken::Foreign));
        assert_eq!(Token::read("ghp_0123456789ab"), Err(NoToken::Foreign));
        assert_eq!(Token::read(""), Err(NoToken::Foreign));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(orc_)?.{0,90}") {
            let _ = Token::read(&text);
        }

        #[test]
        fn one_wrong_letter_is_a_typo(at in 4..TOKEN_LEN, to in 0_usize..32) {
            let token = token();
            let mut text = token.reveal().to_owned().into_bytes();
            let letter = LETTERS[to];
            prop_assume!(text[at] != letter);
            text[at] = letter;
            let text = String::from_utf8(text).expect("ASCII");
            prop_assert_eq!(Token::read(&text), Err(NoToken::Typo));
        }
    }
}
