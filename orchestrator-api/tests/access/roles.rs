//! Each role against each class, by real routes.

use axum::Router;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use orchestrator_api::access::routes::native;
use orchestrator_api::access::{Class, Guard, Role};

use crate::{Fixture, path};

#[tokio::test]
async fn each_role_gets_where_the_table_says_and_nowhere_else() {
    let fixture = Fixture::closed();
    for role in Role::ALL {
        let node = (role == Role::Node).then_some("n1");
        let token = fixture.token(role, node).await;
        for class in Class::ALL {
            for method in [Method::GET, Method::POST] {
                let said = fixture.send(method, &path(class), Some(&token), "").await;
                let expected = if role.may(class) {
                    StatusCode::OK
                } else {
                    StatusCode::FORBIDDEN
                };
                assert_eq!(said.status, expected, "{role:?} {class:?}");
            }
        }
    }
}

#[tokio::test]
async fn who_shows_nothing_is_told_what_to_show() {
    let fixture = Fixture::closed();
    for class in Class::ALL {
        let said = fixture.get(&path(class), None).await;
        if class == Class::Public {
            assert_eq!(said.status, StatusCode::OK);
            continue;
        }
        assert_eq!(said.status, StatusCode::UNAUTHORIZED);
        assert_eq!(said.headers["content-type"], "application/problem+json");
        let schemes: Vec<_> = said.headers.get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(schemes[0], "Bearer realm=\"orchestrator\"");
        assert_eq!(
            schemes[1],
            "Basic realm=\"orchestrator\", charset=\"UTF-8\""
        );
        assert!(said.body.contains("a token is needed"), "{}", said.body);
    }
    assert_eq!(
        fixture.get("/nowhere", None).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn who_may_not_is_told_who_may() {
    let fixture = Fixture::closed();
    let viewer = fixture.token(Role::Viewer, None).await;
    let said = fixture.post("/deploy", Some(&viewer), "").await;
    let problem: serde_json::Value = serde_json::from_str(&said.body).expect("JSON");
    assert_eq!(problem["status"], 403);
    assert_eq!(
        problem["detail"],
        "a viewer token may not do this: it takes a deployer or admin token"
    );
    assert!(!said.headers.contains_key(WWW_AUTHENTICATE));
}

#[tokio::test]
async fn a_node_speaks_for_itself_alone() {
    let fixture = Fixture::closed();
    let n1 = fixture.token(Role::Node, Some("n1")).await;
    assert_eq!(fixture.post("/report", Some(&n1), "n1").await.body, "n1");
    for other in ["n2", "", "N1", "n1 "] {
        let said = fixture.post("/report", Some(&n1), other).await;
        assert_eq!(said.status, StatusCode::FORBIDDEN, "{other:?}");
    }
    let admin = fixture.token(Role::Admin, None).await;
    let said = fixture.post("/report", Some(&admin), "n1").await;
    assert_eq!(said.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_is_not_in_the_table_is_not_reached() {
    let fixture = Fixture::closed();
    let routes = Router::new()
        .route("/v1/jobs", get(async || "jobs").put(async || "forgotten"))
        .route("/healthz", get(async || "well"))
        .route("/v1/forgotten", get(async || "forgotten"))
        .fallback(async || (StatusCode::NOT_FOUND, "nothing"));
    let fixture = Fixture {
        app: routes.layer(Guard::new(&fixture.access, native)),
        ..fixture
    };
    let admin = fixture.token(Role::Admin, None).await;
    let admin = Some(&admin);
    for (method, path, token, status) in [
        (Method::GET, "/healthz", None, 200),
        (Method::GET, "/v1/jobs", None, 401),
        (Method::GET, "/v1/jobs", admin, 200),
        (Method::HEAD, "/v1/jobs", admin, 200),
        (Method::HEAD, "/v1/jobs", None, 401),
        (Method::PUT, "/v1/jobs", admin, 405),
        (Method::GET, "/v1/forgotten", admin, 405),
        (Method::GET, "/v1/nowhere", None, 404),
    ] {
        let said = fixture.send(method.clone(), path, token, "").await;
        assert_eq!(said.status.as_u16(), status, "{method} {path}");
    }
    let said = fixture.send(Method::PUT, "/v1/jobs", admin, "").await;
    assert_eq!(said.headers["allow"], "GET, HEAD, POST");
}
