//! The contract is what the handlers do, and is changed on purpose only.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::Server;

const WRITTEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

/// With `UPDATE=1` in the environment it is written anew.
#[test]
fn the_document_is_the_one_that_is_committed() {
    let mut text = orchestrator_api::native::document()
        .to_pretty_json()
        .unwrap();
    text.push('\n');
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(WRITTEN, &text).unwrap();
    }
    let written = std::fs::read_to_string(WRITTEN).unwrap_or_default();
    assert!(
        written == text,
        "it has changed: look at the difference after UPDATE=1 cargo test -p orchestrator-api contract"
    );
}

fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn every_route_knows_its_parameters_and_no_others() {
    let server = Server::start().await;
    let document = serde_json::to_value(orchestrator_api::native::document()).unwrap();
    let operations = operations(&document);
    assert_eq!(operations.len(), 43);
    for (method, path, operation) in operations {
        if !path.starts_with("/v1/") {
            continue;
        }
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let named = |place: &str| {
            let parameters = parameters.iter().filter(|p| p["in"] == place);
            parameters
                .map(|p| p["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        // Each says something, so that what there is to say is said of all of them.
        let query: Vec<String> = named("query")
            .iter()
            .map(|name| format!("{name}=%00"))
            .collect();
        let concrete = path.replace(['{', '}'], "!");
        let address = format!("{concrete}?{}&nonsense=1", query.join("&"));
        let headers = [("content-type", "application/json")];
        let reply = server
            .client
            .send(method.clone(), &address, &headers, "{}")
            .await;
        let (status, _, errors) = reply.problem();
        assert_eq!(status, 400, "{method} {path}: {}", reply.text());
        let no_such = |(place, detail): &&(String, String)| {
            place != "nonsense" && detail.contains("there is no such parameter")
        };
        assert_eq!(errors.iter().find(no_such), None, "{method} {path}");
        let nonsense = errors.iter().find(|(place, _)| place == "nonsense");
        let (_, known) = nonsense.unwrap_or_else(|| panic!("{method} {path}: {errors:?}"));
        for name in named("query") {
            assert!(known.contains(&name), "{method} {path}: {name} in {known}");
        }
        let in_path = path.matches('{').count();
        assert_eq!(named("path").len(), in_path, "{method} {path}");
        if method == Method::POST {
            assert!(
                named("header").contains(&"Idempotency-Key".to_owned()),
                "{path}"
            );
        }
        let answers = |status: &str| operation["responses"][status].is_object();
        assert!(answers("400"), "{method} {path}");
        // What the reading of a body may come to.
        for status in ["408", "413", "415"] {
            assert_eq!(answers(status), method != Method::GET, "{method} {path}");
        }
        assert!(operation["summary"].is_string(), "{method} {path}");
    }
    server.stop().await;
}

#[test]
fn the_document_refers_to_nothing_that_is_missing() {
    let document = serde_json::to_value(orchestrator_api::native::document()).unwrap();
    fn walk(value: &Value, document: &Value) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|v| walk(v, document)),
            Value::Array(list) => list.iter().for_each(|v| walk(v, document)),
            _ => {}
        }
    }
    walk(&document, &document);
    let operations = operations(&document);
    let mut ids: Vec<&Value> = operations.iter().map(|(.., o)| &o["operationId"]).collect();
    ids.sort_by_key(|id| id.as_str());
    ids.dedup();
    assert_eq!(ids.len(), operations.len(), "each has a name of its own");
    assert_eq!(document["openapi"], json!("3.1.0"));
}
