//! Join tokens: one agent, once.

use axum::http::StatusCode;
use futures_util::FutureExt;
use orchestrator_api::access::token::{Made, Token};
use orchestrator_api::access::{Access, Opening, Role, Settings};
use tokio::task::JoinSet;

use crate::tokens::stay;
use crate::{Fixture, bearer, long_ago, new, who};

fn made(id: &str, text: &str) -> Made {
    Made {
        id: id.to_owned(),
        token: Token::read(text).expect("a token"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_token_used_many_times_at_once_makes_one_node() {
    let fixture = Fixture::closed();
    // Half of them by way of another server on the same store.
    let other = Access::new(fixture.store.clone(), Opening::Closed, Settings::default());
    let apps = [fixture.app.clone(), crate::app(&other)];
    for round in 0..20 {
        let join = fixture.token(Role::Join, None).await;
        let mut agents = JoinSet::new();
        for agent in 0..8 {
            let app = apps[agent % 2].clone();
            let request = axum::extract::Request::post("/agent/join")
                .header("authorization", bearer(&join))
                .body(axum::body::Body::from(format!("n-{round}-{agent}")))
                .expect("a request");
            agents.spawn(async move {
                let response = tower::ServiceExt::oneshot(app, request).await;
                response.expect("a router answers").status()
            });
        }
        let statuses = agents.join_all().await;
        let joined = statuses.iter().filter(|status| **status == StatusCode::OK);
        assert_eq!(joined.count(), 1, "{statuses:?}");
        let refused = |status: &&StatusCode| **status == StatusCode::UNAUTHORIZED;
        let refused = statuses.iter().filter(refused).count();
        assert_eq!(refused, 7, "{statuses:?}");
    }
    let tokens = fixture.access.list(None, 1000).await.expect("a list");
    assert_eq!(tokens.items.len(), 20, "each join token became a node's");
    assert!(tokens.items.iter().all(|token| token.role == Role::Node));
}

#[tokio::test]
async fn a_node_gets_its_own_token_and_needs_no_other_later() {
    let fixture = Fixture::closed();
    let join = fixture.token(Role::Join, None).await;
    let said = fixture.post("/agent/join", Some(&join), "n1").await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.body);
    let own = made(&join.id, &said.body);
    assert_eq!(fixture.post("/report", Some(&own), "n1").await.body, "n1");
    let again = fixture.post("/agent/join", Some(&own), "n1").await;
    assert_eq!((again.status, again.body.as_str()), (StatusCode::OK, ""));
    let other = fixture.post("/agent/join", Some(&own), "n2").await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
    let used = fixture.post("/agent/join", Some(&join), "n3").await;
    assert_eq!(used.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_again_until_it_is_known_to_have_arrived() {
    let fixture = Fixture::closed();
    for (join, node) in [
        (fixture.token(Role::Join, None).await, "n1"),
        (fixture.token(Role::Join, Some("n2")).await, "n2"),
    ] {
        let mut own = Vec::new();
        for _ in 0..3 {
            let said = fixture.post("/agent/join", Some(&join), node).await;
            assert_eq!(said.status, StatusCode::OK, "{}", said.body);
            own.push(made(&join.id, &said.body));
        }
        // It is this node's, and good for nothing else.
        let said = fixture.post("/agent/join", Some(&join), "n9").await;
        assert_eq!(said.status, StatusCode::UNAUTHORIZED, "{}", said.body);
        let said = fixture.post("/report", Some(&join), node).await;
        assert_eq!(said.status, StatusCode::FORBIDDEN, "{}", said.body);
        let latest = own.pop().expect("three");
        for lost in &own {
            let said = fixture.post("/report", Some(lost), node).await;
            assert_eq!(said.status, StatusCode::UNAUTHORIZED, "only one is good");
        }
        let said = fixture.post("/report", Some(&latest), node).await;
        assert_eq!(said.body, node);
        // The first use is written down beside the request.
        let is_used = async || {
            let listed = fixture.access.list(None, 10).await.expect("a list");
            let mut own = listed.items.iter().filter(|token| token.id == join.id);
            own.any(|token| token.last_used_at.is_some())
        };
        while !is_used().await {
            tokio::task::yield_now().await;
        }
        let said = fixture.post("/agent/join", Some(&join), node).await;
        assert_eq!(said.status, StatusCode::UNAUTHORIZED, "{}", said.body);
        let said = fixture.post("/report", Some(&latest), node).await;
        assert_eq!(said.body, node, "nothing has happened to it");
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_is_not_given_again_to_who_comes_late_or_was_revoked() {
    let fixture = Fixture::closed();
    let mut soon = new(Role::Join, None);
    let ends = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    let millis = ends
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let millis = u64::try_from(millis.as_millis()).expect("before the end of time");
    soon.expires_at = Some(orchestrator_core::Time::from_millis(millis));
    let soon = fixture.access.create(soon, who()).await.expect("a token");
    let said = fixture.post("/agent/join", Some(&soon), "n1").await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.body);
    while std::time::SystemTime::now() < ends {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let late = fixture.post("/agent/join", Some(&soon), "n1").await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED, "{}", late.body);

    let join = fixture.token(Role::Join, None).await;
    fixture.post("/agent/join", Some(&join), "n2").await;
    fixture
        .access
        .revoke(&join.id, who())
        .await
        .expect("revoked");
    let said = fixture.post("/agent/join", Some(&join), "n2").await;
    assert_eq!(said.status, StatusCode::UNAUTHORIZED, "{}", said.body);
}

#[tokio::test]
async fn a_node_that_is_there_is_replaced_only_on_purpose() {
    let fixture = Fixture::closed();
    let old = fixture.token(Role::Node, Some("n1")).await;
    let any = fixture.token(Role::Join, None).await;
    let said = fixture.post("/agent/join", Some(&any), "n1").await;
    assert_eq!(said.status, StatusCode::CONFLICT);
    assert!(said.body.contains(&old.id), "{}", said.body);
    let said = fixture.post("/report", Some(&old), "n1").await;
    assert_eq!(said.status, StatusCode::OK, "nothing has happened");

    let mut open = stay(&fixture, &old).await.expect("it is good");
    let meant = fixture.token(Role::Join, Some("n1")).await;
    let said = fixture.post("/agent/join", Some(&meant), "n2").await;
    assert_eq!(said.status, StatusCode::FORBIDDEN);
    assert!(open.over().now_or_never().is_none());
    let said = fixture.post("/agent/join", Some(&meant), "n1").await;
    assert_eq!(said.status, StatusCode::OK);
    assert!(open.over().now_or_never().is_some());
    let said = fixture.post("/report", Some(&old), "n1").await;
    assert_eq!(said.status, StatusCode::UNAUTHORIZED);

    // The token for any node is still good, for one that is new.
    let said = fixture.post("/agent/join", Some(&any), "n3").await;
    assert_eq!(said.status, StatusCode::OK);
}

#[tokio::test]
async fn a_join_token_ends_in_any_case() {
    let fixture = Fixture::closed();
    fixture.token(Role::Join, None).await;
    let tokens = fixture.access.list(None, 10).await.expect("a list");
    assert!(tokens.items[0].expires_at.is_some());

    let mut late = new(Role::Join, None);
    late.expires_at = Some(long_ago());
    let late = fixture.access.create(late, who()).await.expect("a token");
    let said = fixture.post("/agent/join", Some(&late), "n1").await;
    assert_eq!(said.status, StatusCode::UNAUTHORIZED);
    assert!(said.body.contains("1970-01-01"), "{}", said.body);
}
