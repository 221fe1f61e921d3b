//! How a server without tokens may start.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use orchestrator_api::access::start::opening;
use orchestrator_api::access::token::TokenError;
use orchestrator_api::access::{Opening, Role};

use crate::{Fixture, new, who};

async fn starts(fixture: &Fixture, listen: &str, tls: bool) -> Result<Opening, String> {
    let listen: SocketAddr = listen.parse().expect("an address");
    let opened = opening(&*fixture.store, listen, tls, "/data".as_ref()).await;
    opened.map_err(|why| why.to_string())
}

#[tokio::test]
async fn it_is_open_only_here_and_only_before_the_first_token() {
    let fixture = Fixture::closed();
    for here in ["127.0.0.1:7400", "[::1]:7400", "[::ffff:127.0.0.1]:7400"] {
        assert_eq!(starts(&fixture, here, false).await, Ok(Opening::Open));
    }
    fixture.token(Role::Node, Some("n1")).await;
    fixture.token(Role::Join, None).await;
    let still = starts(&fixture, "127.0.0.1:7400", false).await;
    assert_eq!(
        still,
        Ok(Opening::Open),
        "the fleet's tokens are no person's"
    );

    let token = fixture.token(Role::Admin, None).await;
    let closed = starts(&fixture, "127.0.0.1:7400", false).await;
    assert_eq!(closed, Ok(Opening::Closed));
    let revoked = fixture.access.revoke(&token.id, who()).await;
    revoked.expect("it can be revoked");
    let closed = starts(&fixture, "127.0.0.1:7400", false).await;
    assert_eq!(closed, Ok(Opening::Closed), "not open again");
}

#[tokio::test]
async fn others_reach_it_only_with_tls_and_a_token() {
    let fixture = Fixture::closed();
    for there in ["0.0.0.0:7400", "[::]:7400", "192.0.2.1:7400"] {
        let why = starts(&fixture, there, false).await.expect_err("refused");
        assert!(why.contains("neither TLS nor an admin token"), "{why}");
        assert!(
            why.contains("\n  orchestrator token create --data-dir /data --role admin"),
            "{why}"
        );
        assert!(
            why.contains("\n  orchestrator server --data-dir /data"),
            "{why}"
        );
        assert!(why.contains("--tls-cert"), "{why}");
        assert!(starts(&fixture, there, true).await.is_err());
    }
    fixture.token(Role::Viewer, None).await;
    assert!(starts(&fixture, "0.0.0.0:7400", true).await.is_err());
    fixture.token(Role::Admin, None).await;
    assert!(starts(&fixture, "0.0.0.0:7400", false).await.is_err());
    let closed = starts(&fixture, "0.0.0.0:7400", true).await;
    assert_eq!(closed, Ok(Opening::Closed));
}

#[tokio::test]
async fn where_it_is_open_everyone_is_admin_until_there_is_one() {
    let fixture = Fixture::with(Opening::Open);
    let said = fixture.post("/administer", None, "").await;
    assert_eq!(
        (said.status, said.body.as_str()),
        (StatusCode::OK, "anonymous")
    );
    assert_eq!(fixture.post("/report", None, "n7").await.body, "n7");
    assert_eq!(fixture.post("/agent/join", None, "n7").await.body, "");

    let early = fixture.access.create(new(Role::Viewer, None), who()).await;
    assert!(matches!(early, Err(TokenError::AdminFirst)));
    let admin = fixture.token(Role::Admin, None).await;
    assert!(!fixture.access.is_open());
    let said = fixture.get("/read", None).await;
    assert_eq!(said.status, StatusCode::UNAUTHORIZED);
    let said = fixture.get("/administer", Some(&admin)).await;
    assert_eq!(said.status, StatusCode::OK);
}

#[tokio::test]
async fn where_it_is_open_the_pages_of_others_are_not_let_in() {
    let fixture = Fixture::with(Opening::Open);
    for (method, host, origin, status) in [
        ("GET", "localhost:7400", None, 200),
        ("POST", "localhost:7400", None, 200),
        ("POST", "localhost:7400", Some("http://localhost:7400"), 200),
        ("POST", "localhost:7400", Some("https://evil.example"), 403),
        ("POST", "localhost:7400", Some("null"), 403),
        // A name of theirs that leads here.
        ("GET", "evil.example:7400", None, 403),
        (
            "POST",
            "evil.example:7400",
            Some("http://evil.example:7400"),
            403,
        ),
    ] {
        let request = Request::builder().method(method).uri("/read");
        let request = request.header("host", host);
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        let said = fixture
            .ask(request.body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(said.status.as_u16(), status, "{method} {host} {origin:?}");
    }
}
