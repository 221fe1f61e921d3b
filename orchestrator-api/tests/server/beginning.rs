//! How it begins, or why it does not.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rusqlite::Connection;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::program::{Program, data, dir, run, word};

const HERE: &str = "127.0.0.1:0";

/// What it says when it does not begin: one line on the standard error, and nothing else.
#[track_caller]
fn refused(data: &Path, words: &[&str]) -> String {
    let all = ["server", "--log-level", "off", "--data-dir", word(data)];
    let (code, out, said) = run(&[&all, words].concat());
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    let said = said.strip_prefix("error: ").expect("that it is one first");
    said.strip_suffix('\n').expect("a whole line").to_owned()
}

#[tokio::test]
async fn it_says_where_it_listens_and_answers() {
    let dir = dir();
    let server = Program::start(&dir);
    let lines: Vec<&str> = server.said.lines().collect();
    assert!(
        lines[0].contains("listens on http://127.0.0.1:"),
        "{lines:?}"
    );
    assert!(lines[0].contains(word(&data(&dir))), "{lines:?}");
    assert!(lines[1].starts_with("It is open: "), "{lines:?}");
    for path in ["/healthz", "/readyz"] {
        let said = server.client.get(path).await.expect("an answer").is(200);
        assert_eq!(said["status"], "ok", "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn its_log_can_be_json() {
    let dir = dir();
    let server = Program::start_with(&dir, &["--listen", HERE, "--log", "json"]);
    let headers = [("x-request-id", "r-17")];
    let sent = server.client.send(Method::POST, "/v1/jobs", &headers, None);
    sent.await.expect("an answer").is(400);
    server.signal("INT");
    let (ended, log) = server.ended().await;
    assert!(ended.success());
    let lines = log.lines().map(serde_json::from_str::<serde_json::Value>);
    let lines: Vec<_> = lines.map(|line| line.expect("JSON")).collect();
    let said = |text| lines.iter().any(|line| line["message"] == text);
    assert!(said("stopped"), "{log}");
    assert!(lines.iter().any(|line| line["by"] == "SIGINT"), "{log}");
    let answered = lines.iter().find(|line| line["message"] == "answered");
    let answered = answered.expect("what was refused is logged");
    assert_eq!(answered["span"]["id"], "r-17", "{log}");
    assert_eq!(answered.to_string().matches("r-17").count(), 1, "{log}");
}

#[test]
fn an_address_that_is_not_to_be_had() {
    let dir = dir();
    let taken = TcpListener::bind(HERE).expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let said = refused(&data(&dir), &["--listen", &address]);
    let expected =
        "is in use by another program: stop that one, or give another address by --listen";
    assert_eq!(said, format!("{address} {expected}"));
}

#[tokio::test]
async fn a_directory_that_another_server_has() {
    let dir = dir();
    let server = Program::start(&dir);
    let said = refused(&data(&dir), &["--listen", HERE]);
    assert!(
        said.contains("is in use by another server (process "),
        "{said}"
    );
    assert!(
        said.ends_with("stop that one first, or give this one another directory"),
        "{said}"
    );
    // Whoever wants a token of that server is told that he can ask it.
    let data_dir = data(&dir);
    let words = ["token", "create", "--name", "me", "--role", "admin"];
    let words = [&words[..], &["--data-dir", word(&data_dir)]].concat();
    let (code, out, said) = run(&words);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    let expected = format!("error: a server runs on {} (process ", word(&data_dir));
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("leave out --data-dir"), "{said}");
    server.stop().await;
    // And is free again.
    Program::start(&dir).stop().await;
}

#[tokio::test]
async fn a_file_that_is_damaged_newer_or_of_another_program() {
    let dir = dir();
    Program::start(&dir).stop().await;
    let file = data(&dir).join("orchestrator.db");
    let with = |sql: &str| {
        let conn = Connection::open(&file).expect("opened");
        conn.execute_batch(sql).expect("changed");
    };
    with("PRAGMA user_version = 99");
    let said = refused(&data(&dir), &["--listen", HERE]);
    assert!(
        said.contains("is of version 99, and this program knows versions up to"),
        "{said}"
    );
    assert!(
        said.ends_with("run the newer program that wrote it"),
        "{said}"
    );

    with("PRAGMA user_version = 1; PRAGMA application_id = 7");
    let corrupt = "is damaged or no data of this program: put it aside, and restore a backup";
    let said = refused(&data(&dir), &["--listen", HERE]);
    assert!(said.ends_with(corrupt), "{said}");

    let mut bytes = std::fs::read(&file).expect("read");
    bytes[100..2000].fill(0x55);
    std::fs::write(&file, bytes).expect("written");
    let said = refused(&data(&dir), &["--listen", HERE]);
    assert!(said.ends_with(corrupt), "{said}");
}

#[test]
fn a_directory_that_is_none() {
    let dir = dir();
    std::fs::write(data(&dir), "a file").expect("written");
    for data in [data(&dir), data(&dir).join("below")] {
        let said = refused(&data, &["--listen", HERE]);
        let expected = "cannot be a directory: there is a file in its place";
        assert_eq!(said, format!("{} {expected}", word(&data)));
    }
}

#[tokio::test]
async fn a_store_that_somebody_emptied() {
    let dir = dir();
    Program::start(&dir).stop().await;
    let file = data(&dir).join("orchestrator.db");
    std::fs::write(&file, "").expect("emptied");
    let said = refused(&data(&dir), &["--listen", HERE]);
    let expected = format!("{} is empty, and a store never is: ", word(&file));
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_disk_that_is_full_or_cannot_be_written() {
    let dir = dir();
    let mount = |args: &[&str]| {
        let run = Command::new("mount").args(args).arg(dir.path()).output();
        run.is_ok_and(|run| run.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=32k", "tmpfs"]) {
        return eprintln!("SKIPPED: this process may not mount a file system");
    }
    let _mounted = Mounted(dir.path());
    let said = refused(&data(&dir), &["--listen", HERE]);
    assert!(said.starts_with("no space left in "), "{said}");
    assert!(
        said.ends_with("make room there; what was acknowledged is safe"),
        "{said}"
    );
    assert!(mount(&["-o", "remount,ro"]), "it was mounted before");
    let said = refused(&dir.path().join("other"), &["--listen", HERE]);
    let expected =
        "cannot be written: check its owner, its permissions, and how the file system is mounted";
    assert!(said.ends_with(expected), "{said}");
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn others_could_reach_it_and_there_is_neither_tls_nor_a_token() {
    let dir = dir();
    let all = ["server", "--listen", "0.0.0.0:0", "--data-dir"];
    let (code, _, said) = run(&[&all[..], &[word(&data(&dir))]].concat());
    assert_eq!(code, Some(1));
    assert!(
        said.contains("there is neither TLS nor an admin token"),
        "{said}"
    );
    // The two commands that help.
    assert!(
        said.contains("\n  orchestrator token create --data-dir"),
        "{said}"
    );
    assert!(
        said.contains("\n  orchestrator server --data-dir"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_meant_is_told_by_its_option() {
    for (words, named) in [
        (["--tls-cert", "c.pem"], "--tls-key"),
        (["--listen", "somewhere"], "--listen"),
        (["--keep-audit", "long"], "--keep-audit"),
        (["--log-level", "a=b=c"], "--log-level"),
        (["--output", "json"], "--log json"),
        (["--address", "http://a"], "--listen"),
    ] {
        let (code, _, said) = run(&[&["server"][..], &words].concat());
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn every_option_is_also_a_variable() {
    let (_, help, _) = run(&["server", "--help"]);
    // Below that are those of the commands that ask a server.
    let own = help.split("\nServer and output:").next();
    let options = own
        .expect("there is a first part")
        .lines()
        .filter(|line| line.trim_start().starts_with("--"));
    let named: Vec<&str> = options
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(named.len(), 9, "{help}");
    // As one line: it may wrap in the middle of what is looked for.
    let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for option in named {
        let variable = option
            .trim_start_matches('-')
            .replace('-', "_")
            .to_uppercase();
        let variable = format!("[env: ORCHESTRATOR_{variable}]");
        assert!(flat.contains(&variable), "{option}\n{help}");
    }
}

/// A certificate and its key, as files.
fn certificate(dir: &TempDir, name: &str) -> (String, String, CertifiedKey<rcgen::KeyPair>) {
    let made = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let file = |end: &str, text: String| {
        let path = dir.path().join(format!("{name}-{end}.pem"));
        std::fs::write(&path, text).expect("written");
        word(&path).to_owned()
    };
    let cert = file("cert", made.cert.pem());
    let key = file("key", made.signing_key.serialize_pem());
    (cert, key, made)
}

#[test]
fn a_certificate_without_its_key() {
    let dir = dir();
    let (cert, _, _) = certificate(&dir, "localhost");
    let (_, other, _) = certificate(&dir, "other");
    let missing = dir.path().join("missing.pem");
    for (key, expected) in [
        (other.as_str(), "cannot be used with its key"),
        (word(&missing), "missing.pem cannot be read"),
        (cert.as_str(), "is no PEM file of the kind that is needed"),
    ] {
        let words = ["--listen", HERE, "--tls-cert", &cert, "--tls-key", key];
        let said = refused(&data(&dir), &words);
        assert!(said.contains(expected), "{said}");
        assert!(
            said.ends_with("take a certificate and its own key, each in a PEM file"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn with_tls_and_a_token_others_may_reach_it() {
    let dir = dir();
    let (cert, key, made) = certificate(&dir, "localhost");
    let data = data(&dir);
    let words = [
        "token",
        "create",
        "--data-dir",
        word(&data),
        "--role",
        "admin",
        "--name",
        "me",
    ];
    let (code, token, said) = run(&words);
    assert_eq!(code, Some(0), "{said}");
    let words = [
        "--listen",
        "0.0.0.0:0",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let server = Program::start_with(&dir, &words);
    assert!(
        server.said.contains("listens on https://0.0.0.0:"),
        "{}",
        server.said
    );
    assert!(
        server.said.contains("\nEvery request needs a token;"),
        "{}",
        server.said
    );

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", server.client.address.port())).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector
        .connect(name, tcp.expect("connected"))
        .await
        .expect("a handshake");
    let io = TokioIo::new(tls);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("HTTP");
    tokio::spawn(connection);
    let mut get = async |token: Option<&str>| {
        let mut request = Request::get("/v1/tokens").header("host", "localhost");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).expect("a request");
        sender.ready().await.expect("connected");
        let (parts, body) = sender
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (
            parts.status.as_u16(),
            String::from_utf8(body.to_vec()).expect("text"),
        )
    };
    assert_eq!(get(None).await.0, 401);
    let (status, tokens) = get(Some(token.trim())).await;
    assert_eq!(status, 200, "{tokens}");
    assert!(tokens.contains("\"name\":\"me\""), "{tokens}");
    assert!(!tokens.contains(token.trim()), "the secret is shown once");
    server.stop().await;
}
