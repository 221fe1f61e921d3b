//! What a token is good for, and for how long.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt;
use orchestrator_api::access::token::{Made, TokenError, create_offline};
use orchestrator_api::access::{Access, Denied, Opening, Role, Settings, Stay};
use orchestrator_api::store::StoreError;

use crate::{Fixture, bearer, long_ago, new, who};

fn headers(made: &Made) -> HeaderMap {
    let value = HeaderValue::from_str(&bearer(made)).expect("a header");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

fn address() -> IpAddr {
    [192, 0, 2, 1].into()
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once() {
    let fixture = Fixture::closed();
    for _ in 0..50 {
        let token = fixture.token(Role::Viewer, None).await;
        assert_eq!(
            fixture.get("/read", Some(&token)).await.status,
            StatusCode::OK
        );
        // One more request is under way, and may be reading the token.
        let (_, revoked) = tokio::join!(
            fixture.get("/read", Some(&token)),
            fixture.access.revoke(&token.id, who())
        );
        revoked.expect("it can be revoked");
        // From different addresses, or this becomes 429.
        let checked = fixture.access.check(&headers(&token), address()).await;
        assert!(matches!(checked, Err(Denied::Revoked | Denied::TooMany(_))));
    }
    let again = fixture.access.revoke("no such", who()).await;
    assert!(matches!(again, Err(TokenError::NoSuchToken(_))));
    let again = fixture.access.revoke("", who()).await;
    assert!(matches!(again, Err(TokenError::NoSuchToken(_))));
}

/// Leave to keep something open, for who shows this token.
pub(crate) async fn stay(fixture: &Fixture, made: &Made) -> Result<Stay, Denied> {
    let caller = fixture.access.check(&headers(made), address()).await?;
    fixture.access.stay(&caller).await
}

#[tokio::test]
async fn when_a_revocation_is_answered_nothing_is_open_with_the_token() {
    let fixture = Fixture::closed();
    for _ in 0..50 {
        let token = fixture.token(Role::Viewer, None).await;
        let mut open = stay(&fixture, &token).await.expect("it is good");
        assert!(open.over().now_or_never().is_none());
        // One more comes at the same time: it is woken as well, or not let in.
        let (late, revoked) = tokio::join!(
            stay(&fixture, &token),
            fixture.access.revoke(&token.id, who())
        );
        revoked.expect("it can be revoked");
        for mut open in [Ok(open), late].into_iter().flatten() {
            assert!(open.over().now_or_never().is_some());
            assert!(matches!(open.again().await, Err(Denied::Revoked)));
        }
    }
    // Let in before, and slow to open anything.
    let token = fixture.token(Role::Viewer, None).await;
    let caller = fixture.access.check(&headers(&token), address()).await;
    let revoked = fixture.access.revoke(&token.id, who()).await;
    revoked.expect("it can be revoked");
    let stay = fixture.access.stay(&caller.expect("it was good")).await;
    assert!(matches!(stay, Err(Denied::Revoked)), "{stay:?}");
}

#[tokio::test]
async fn another_process_sees_a_revocation_once_it_no_longer_believes_what_it_read() {
    let fixture = Fixture::closed();
    // Two that share a store, as two processes would.
    let other = |believed_for| {
        let settings = Settings {
            believed_for,
            ..Settings::default()
        };
        Access::new(fixture.store.clone(), Opening::Closed, settings)
    };
    let trusting = other(std::time::Duration::from_secs(3600));
    let wary = other(std::time::Duration::ZERO);
    // Each of them also writes down that the token is in use, which must not undo what is done at the same time.
    for _ in 0..20 {
        let token = fixture.token(Role::Viewer, None).await;
        for access in [&trusting, &wary] {
            assert!(access.check(&headers(&token), address()).await.is_ok());
        }
        let revoked = fixture.access.revoke(&token.id, who()).await;
        revoked.expect("it can be revoked");
        assert!(trusting.check(&headers(&token), address()).await.is_ok());
        let seen = wary.check(&headers(&token), address()).await;
        assert!(matches!(seen, Err(Denied::Revoked)), "{seen:?}");
    }
}

#[tokio::test]
async fn basic_is_taken_wherever_a_bearer_is_and_its_name_says_nothing() {
    let fixture = Fixture::closed();
    let token = fixture.token(Role::Deployer, None).await;
    for name in ["", "ci", "jürgen"] {
        let pair = BASE64_STANDARD.encode(format!("{name}:{}", token.token.reveal()));
        let request = Request::post("/deploy").header(AUTHORIZATION, format!("basic {pair}"));
        let said = fixture
            .ask(request.body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(said.status, StatusCode::OK);
        assert_eq!(said.body, format!("a deployer ({})", token.id));
    }
    // What a browser adds for the page of another site does not help that page.
    let pair = BASE64_STANDARD.encode(format!("me:{}", token.token.reveal()));
    let request = |origin: &str| {
        Request::post("/deploy")
            .header(AUTHORIZATION, format!("Basic {pair}"))
            .header("host", "deploy.example")
            .header("origin", origin)
            .body(Body::empty())
            .expect("a request")
    };
    let foreign = fixture.ask(request("https://evil.example")).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    let own = fixture.ask(request("https://deploy.example")).await;
    assert_eq!(own.status, StatusCode::OK);
}

#[tokio::test]
async fn who_fails_too_often_waits_and_who_is_good_does_not() {
    let fixture = Fixture::closed();
    let good = fixture.token(Role::Viewer, None).await;
    let gone = fixture.token(Role::Viewer, None).await;
    let revoked = fixture.access.revoke(&gone.id, who()).await;
    revoked.expect("it can be revoked");
    let mut last = None;
    for _ in 0..30 {
        last = fixture.access.check(&headers(&gone), address()).await.err();
    }
    assert!(matches!(last, Some(Denied::TooMany(_))), "{last:?}");
    let fresh = fixture.token(Role::Viewer, None).await;
    for token in [&good, &fresh] {
        let checked = fixture.access.check(&headers(token), address()).await;
        assert!(checked.is_ok(), "same address, never seen before");
    }
    let elsewhere = fixture
        .access
        .check(&headers(&gone), [198, 51, 100, 7].into())
        .await;
    assert!(matches!(elsewhere, Err(Denied::Revoked)));
}

#[tokio::test]
async fn a_slip_of_the_hand_is_told_from_a_token_that_is_no_longer_good() {
    let fixture = Fixture::closed();
    let mut late = new(Role::Viewer, None);
    late.expires_at = Some(long_ago());
    let late = fixture.access.create(late, who()).await.expect("a token");
    let cut = &late.token.reveal()[..60];
    for (sent, told) in [
        (cut, "mistyped or cut short"),
        ("hunter2", "begin with"),
        (late.token.reveal(), "was good until 1970"),
    ] {
        let request = Request::get("/read").header(AUTHORIZATION, format!("Bearer {sent}"));
        let said = fixture
            .ask(request.body(Body::empty()).expect("a request"))
            .await;
        assert_eq!(said.status, StatusCode::UNAUTHORIZED);
        assert!(said.body.contains(told), "{}", said.body);
        assert!(!said.body.contains(sent), "what was sent is not sent back");
    }
}

#[tokio::test]
async fn a_list_shows_everything_but_the_secret() {
    let fixture = Fixture::closed();
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(fixture.token(Role::Operator, None).await);
    }
    let node = fixture.token(Role::Node, Some("n1")).await;
    let first = fixture.access.list(None, 4).await.expect("a list");
    let rest = fixture.access.list(first.next.clone(), 4).await;
    let rest = rest.expect("a list");
    assert_eq!((first.items.len(), rest.items.len()), (4, 2));
    assert_eq!(rest.next, None);

    let text = serde_json::to_string(&[first, rest]).expect("JSON");
    for made in tokens.iter().chain([&node]) {
        assert!(text.contains(&made.id));
        let secret = &made.token.reveal()["orc_".len() + made.id.len() + 1..];
        assert!(!text.contains(secret));
        for file in std::fs::read_dir(fixture.dir.path()).expect("a directory") {
            let bytes = std::fs::read(file.expect("a file").path()).expect("a file");
            let holds = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!holds, "the secret is on disk");
        }
    }
}

#[tokio::test]
async fn the_last_use_is_kept_without_a_write_for_each_request() {
    let fixture = Fixture::closed();
    let token = fixture.token(Role::Viewer, None).await;
    for _ in 0..100 {
        fixture.get("/read", Some(&token)).await;
    }
    let used = async || {
        let mut tokens = fixture.access.list(None, 1).await.expect("a list");
        tokens.items.remove(0).last_used_at
    };
    while used().await.is_none() {
        tokio::task::yield_now().await;
    }
    let lines = fixture.store.audited(None, 100).await.expect("lines");
    assert_eq!(lines.len(), 2, "made, and begun to be used");
}

#[tokio::test]
async fn the_first_token_is_made_while_no_server_runs() {
    let fixture = Fixture::closed();
    let busy = create_offline(fixture.dir.path(), new(Role::Admin, None)).await;
    assert!(matches!(
        busy,
        Err(TokenError::Store(StoreError::InUse { .. }))
    ));

    let dir = crate::dir();
    let made = create_offline(dir.path(), new(Role::Admin, None)).await;
    let made = made.expect("a token");
    let store = orchestrator_api::store::sqlite::Sqlite::open(dir.path()).expect("the store");
    let access = Access::new(
        std::sync::Arc::new(store),
        Opening::Closed,
        Settings::default(),
    );
    let caller = access.check(&headers(&made), address()).await;
    assert_eq!(caller.expect("it is good").role(), Role::Admin);
}

#[tokio::test]
async fn what_makes_no_sense_is_not_made() {
    let fixture = Fixture::closed();
    let create = async |name: &str, role, node: Option<&str>| {
        let mut new = new(role, node);
        new.name = name.to_owned();
        fixture.access.create(new, who()).await.err()
    };
    assert!(matches!(
        create("", Role::Viewer, None).await,
        Some(TokenError::Name)
    ));
    for name in ["a\nb", " ", " a", "a\u{202e}nimda", "\u{feff}", "a\u{200b}"] {
        let made = create(name, Role::Viewer, None).await;
        assert!(matches!(made, Some(TokenError::Name)), "{name:?}");
    }
    assert!(create("Zoë’s laptop", Role::Viewer, None).await.is_none());
    assert!(matches!(
        create("a", Role::Node, None).await,
        Some(TokenError::NoNode)
    ));
    assert!(matches!(
        create("a", Role::Join, Some("")).await,
        Some(TokenError::NodeName)
    ));
    assert!(matches!(
        create("a", Role::Admin, Some("n1")).await,
        Some(TokenError::NodeOfPerson)
    ));
}
