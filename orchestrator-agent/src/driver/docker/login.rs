//! How an engine shows itself to an image's registry: by what `docker login` has kept in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::disk;

/// Where images are whose name says nothing of a registry.
const HUB: &str = "docker.io";
/// What the file calls that.
const HUB_IN_FILE: &str = "https://index.docker.io/v1/";

/// The file, as far as it matters. Programs that it names are not asked.
#[derive(Deserialize)]
struct File {
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    /// The user and the password, with a colon between them, in base64.
    #[serde(default)]
    auth: String,
    /// In place of a password.
    #[serde(default)]
    identitytoken: String,
}

/// As the engine wants it.
#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    identitytoken: &'a str,
    serveraddress: &'a str,
}

/// The value of the header `X-Registry-Auth` for an image; `None` where the file has nothing for its registry. It is read
/// anew each time: passwords change.
pub(super) fn header(file: &Path, image: &str) -> io::Result<Option<String>> {
    let wrong = |why: String| io::Error::other(format!("{}: {why}", file.display()));
    // Whoever opened a pipe would wait for its writer.
    let is_file = match std::fs::metadata(file) {
        Ok(found) => found.is_file(),
        Err(_) => true,
    };
    if !is_file {
        return Err(wrong("it is no file".to_owned()));
    }
    let read: Option<File> = disk::read_json(file).map_err(|why| wrong(why.to_string()))?;
    let Some(read) = read else {
        tracing::warn!(file = %file.display(), "there are no passwords for registries: there is no such file");
        return Ok(None);
    };
    let registry = registry(image);
    let auths = read.auths.unwrap_or_default();
    let exact = auths.get_key_value(match registry {
        HUB => HUB_IN_FILE,
        host => host,
    });
    let found = exact.or_else(|| auths.iter().find(|(name, _)| is_of(name, registry)));
    let Some((address, entry)) = found else {
        return Ok(None);
    };
    let cannot = || wrong(format!("{address}: \"auth\" cannot be read"));
    let bytes = STANDARD.decode(&entry.auth).map_err(|_| cannot())?;
    let text = String::from_utf8(bytes).map_err(|_| cannot())?;
    let (username, password) = match text.split_once(':') {
        Some(parts) => parts,
        None if entry.identitytoken.is_empty() => return Ok(None),
        None => Default::default(),
    };
    let login = Login {
        username,
        password,
        identitytoken: &entry.identitytoken,
        serveraddress: address,
    };
    Ok(Some(URL_SAFE.encode(serde_json::to_vec(&login)?)))
}

/// The first part of a name is a registry where it looks like a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// Whether an entry of the file is for a registry: a host, or an address with one.
fn is_of(name: &str, registry: &str) -> bool {
    if registry == HUB {
        return name == HUB_IN_FILE || name == HUB;
    }
    let host = name.split_once("://").map_or(name, |(_, rest)| rest);
    host.split('/').next() == Some(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(header: &str) -> serde_json::Value {
        serde_json::from_slice(&URL_SAFE.decode(header).unwrap()).unwrap()
    }

    #[test]
    fn each_registry_hears_its_own_password() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let text = r#"{
            "auths": {
                "https://index.docker.io/v1/": { "auth": "aHViOm9uZQ==" },
                "docker.io": { "auth": "bWU6b2xk" },
                "registry.example:5000": { "auth": "bWU6YTpi" },
                "https://old.example/v1/": { "auth": "bWU6b2xk" },
                "https://twice.example/v1/": { "auth": "bWU6b2xk" },
                "twice.example": { "auth": "bWU6bmV3" },
                "twice.example/v2/": { "auth": "bWU6b2xk" },
                "token.example": { "auth": "", "identitytoken": "t" },
                "helped.example": {},
                "odd.example": { "auth": "%" }
            },
            "credsStore": "secretservice"
        }"#;
        std::fs::write(&file, text).unwrap();
        for (image, user, password) in [
            ("app", "hub", "one"),
            ("team/app:1", "hub", "one"),
            ("registry.example:5000/team/app@sha256:00", "me", "a:b"),
            ("old.example/app", "me", "old"),
            ("twice.example/app", "me", "new"),
        ] {
            let login = decoded(&header(&file, image).unwrap().unwrap());
            assert_eq!(
                (&login["username"], &login["password"]),
                (&user.into(), &password.into())
            );
        }
        let login = decoded(&header(&file, "token.example/app").unwrap().unwrap());
        assert_eq!(login["identitytoken"], "t");
        assert_eq!(login["serveraddress"], "token.example");
        for image in [
            "other.example/app",
            "registry.example/app",
            "helped.example/app",
        ] {
            assert_eq!(header(&file, image).unwrap(), None, "{image}");
        }
        let why = header(&file, "odd.example/app").unwrap_err().to_string();
        assert!(
            why.ends_with(r#"config.json: odd.example: "auth" cannot be read"#),
            "{why}"
        );
        assert_eq!(header(&dir.path().join("none"), "app").unwrap(), None);
        let mode = rustix::fs::Mode::RUSR;
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let why = header(&pipe, "app").unwrap_err().to_string();
        assert!(why.ends_with("pipe: it is no file"), "{why}");
        std::fs::write(&file, r#"{ "auths": null }"#).unwrap();
        assert_eq!(header(&file, "app").unwrap(), None);
    }
}
