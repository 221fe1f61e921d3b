//! What a workload brings along: a file or an archive, known by the SHA-256 of its bytes.
//!
//! ```text
//!  source ──► fetch ──► its bytes, hashed and bounded ──► unpack, into a directory that nobody sees ──► rename ──► cache
//! ```
//!
#![doc = include_str!("../../docs/artifact.md")]

mod cache;
mod fetch;
mod unpack;

use std::path::PathBuf;

use hyper::Uri;
use serde::Deserialize;

pub(crate) use self::cache::{Cache, Made};
pub(crate) use self::fetch::fetch;

/// What a job file may say of what it brings along, as Markdown.
pub const FIELDS: &str = include_str!("../../docs/artifact.md");

/// What a workload brings along.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "Document")]
pub struct Artifact {
    /// Where it comes from.
    pub source: Source,
    /// What it is, in lower case.
    pub sha256: String,
    /// What is made of it.
    pub unpack: Unpack,
}

/// Where an artifact comes from.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// A file of the node.
    File(PathBuf),
    /// A GET of this.
    Url(String),
}

/// What is made of an artifact.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unpack {
    /// Nothing: it is one file.
    #[serde(rename = "none")]
    Not,
    /// A directory.
    #[serde(rename = "tar")]
    Tar,
    /// A directory.
    #[serde(rename = "tar.gz")]
    TarGz,
}

/// The most that artifacts take of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// The size of one at its source.
    pub bytes_max: u64,
    /// The size of one when it is unpacked.
    pub unpacked_bytes_max: u64,
    /// The files, directories and links in one.
    pub entries_max: usize,
    /// So many that no run needs are kept.
    pub kept_max: usize,
    /// Those that no run needs may have so many bytes together.
    pub kept_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes_max: 1 << 30,
            unpacked_bytes_max: 4 << 30,
            entries_max: 100_000,
            kept_max: 16,
            kept_bytes_max: 8 << 30,
        }
    }
}

/// Why an artifact is not here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failed {
    /// It may be otherwise the next time.
    Away(String),
    /// It is there, and is not what was promised.
    Wrong(String),
}

impl Failed {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Away(why) | Self::Wrong(why) => why,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    source: String,
    sha256: String,
    unpack: Option<Unpack>,
}

impl TryFrom<Document> for Artifact {
    type Error = String;

    fn try_from(document: Document) -> Result<Self, String> {
        let Document {
            source,
            sha256,
            unpack,
        } = document;
        let sha256 = sha256.to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("sha256: {sha256:?} is not 64 hexadecimal digits"));
        }
        let (source, path) = match source.starts_with('/') {
            true => (Source::File(source.clone().into()), source),
            false => {
                let uri = uri(&source).map_err(|why| format!("source: {why}"))?;
                (Source::Url(source), uri.path().to_owned())
            }
        };
        Ok(Self {
            source,
            sha256,
            unpack: unpack.map_or_else(|| by_name(&path), Ok)?,
        })
    }
}

impl Artifact {
    /// Its name in the cache: what it is, and what was made of it.
    pub(crate) fn id(&self) -> String {
        let unpack = match self.unpack {
            Unpack::Not => "none",
            Unpack::Tar => "tar",
            Unpack::TarGz => "tar.gz",
        };
        format!("{}-{unpack}", self.sha256)
    }
}

/// An address that a file can be asked of.
fn uri(text: &str) -> Result<Uri, String> {
    let read: Option<Uri> = text.parse().ok();
    let is_good = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|all| !all.as_str().contains('@'))
    };
    let none = || {
        let text = public(text);
        format!(
            "{text:?} is neither an absolute path nor an address such as https://host/app.tar.gz"
        )
    };
    read.filter(is_good).ok_or_else(none)
}

/// An address as everybody may see it: what comes after a `?` is often a secret.
fn public(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

fn by_name(path: &str) -> Result<Unpack, String> {
    if [".tar.gz", ".tgz"].iter().any(|end| path.ends_with(end)) {
        return Ok(Unpack::TarGz);
    }
    if path.ends_with(".tar") {
        return Ok(Unpack::Tar);
    }
    let others = [".zip", ".tar.bz2", ".tar.xz", ".tar.zst"];
    match others.into_iter().find(|end| path.ends_with(end)) {
        None => Ok(Unpack::Not),
        Some(end) => Err(format!(
            "unpack: {end} cannot be unpacked here: bring a .tar.gz, or say \"none\" to have the file as it is"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workload::fault;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(source: &str, more: serde_json::Value) -> Result<Artifact, String> {
        let mut document = json!({ "source": source, "sha256": HASH });
        let more = more.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(more);
        fault::read(&document)
    }

    #[test]
    fn the_name_says_what_is_made_of_it() {
        for (source, unpack) in [
            ("/srv/app", Unpack::Not),
            ("/srv/app.tar", Unpack::Tar),
            ("http://a/app.tgz", Unpack::TarGz),
            ("https://a/app.tar.gz?key=secret.bin", Unpack::TarGz),
            ("https://a:8/", Unpack::Not),
        ] {
            assert_eq!(read(source, json!({})).unwrap().unpack, unpack, "{source}");
        }
        let said = read("http://a/app.zip", json!({ "unpack": "none" })).unwrap();
        assert_eq!(said.unpack, Unpack::Not);
        let loud = json!({ "sha256": HASH.to_uppercase() });
        assert_eq!(read("/a", loud).unwrap().sha256, HASH);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (source, more, sentence) in [
            ("app", json!({}), "source: \"app\" is neither"),
            ("ftp://a/app", json!({}), "neither"),
            ("http://user:word@a/app", json!({}), "neither"),
            ("http://a/app.zip", json!({}), "unpack: .zip cannot be"),
            ("/a", json!({ "sha256": "12" }), "\"12\" is not 64"),
            (
                "/a",
                json!({ "sha256": null }),
                "sha256: null is not allowed; a text",
            ),
            (
                "/a",
                json!({ "unpack": "rar" }),
                "unpack: \"rar\" is not allowed; one of ",
            ),
            (
                "/a",
                json!({ "url": "x" }),
                "url: \"x\" is not allowed; there is no such field",
            ),
        ] {
            let why = read(source, more).unwrap_err();
            assert!(why.contains(sentence), "{why}");
        }
        let why = read("ftp://a/app?key=secret", json!({})).unwrap_err();
        assert!(!why.contains("secret"), "{why}");
    }
}
