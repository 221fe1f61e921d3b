//! A client of the server, the jobs that it is given, and waiting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is looked for, as soon as it is there. A test that hangs says what it waits for.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(180), found).await;
    found.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}

/// A page of a service on this machine.
pub(crate) async fn get(port: u16, path: &str) -> Option<String> {
    let api = Api::of(([127, 0, 0, 1], port).into());
    let request = Request::get(format!("http://127.0.0.1:{port}{path}"));
    let response = api
        .http
        .request(request.body(Full::default()).unwrap())
        .await
        .ok()?;
    let body = response.into_body().collect().await.ok()?;
    Some(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// A client of the server.
#[derive(Clone)]
pub(crate) struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    pub(crate) address: SocketAddr,
}

impl Api {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            address,
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(Method::POST, path, &body.to_string()).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Registers a job, and answers the id of its deployment.
    pub(crate) async fn register(&self, job: Value) -> String {
        let answer = self.post("/v1/jobs", job).await;
        answer["deployment_id"].as_str().unwrap().to_owned()
    }

    /// The deployment, as soon as this is true of it.
    pub(crate) async fn until(&self, id: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut path = format!("/v1/deployments/{id}");
        loop {
            let shown = self.get(&path).await["deployment"].clone();
            if is(&shown) {
                return shown;
            }
            let over = ["completed", "failed", "canceled"];
            let state = shown["status"]["state"].as_str().unwrap();
            if over.contains(&state) {
                panic!("it is over: {shown:#}\n{}", self.targets(id).await);
            }
            let revision = &shown["status"]["revision"];
            path = format!("/v1/deployments/{id}?revision={revision}&wait=30s");
        }
    }

    pub(crate) async fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(id, |shown| shown["status"]["state"] == state)
            .await
    }

    /// Promotes it as soon as it waits for that; ready when it has completed.
    pub(crate) async fn promoted(&self, id: &str) {
        self.until(id, |shown| shown["status"]["waiting_on"] == "promotion")
            .await;
        let path = format!("/v1/deployments/{id}/promote");
        self.post(&path, json!({})).await;
        self.until_state(id, "completed").await;
    }

    /// Takes a job back by hand; ready when that has completed.
    pub(crate) async fn taken_back(&self, job: &str) {
        self.carried_out(job, "rollback").await;
    }

    /// Stops a job; ready when that has completed.
    pub(crate) async fn stopped(&self, job: &str) {
        self.carried_out(job, "stop").await;
    }

    async fn carried_out(&self, job: &str, order: &str) {
        let path = format!("/v1/jobs/default/{job}/{order}");
        let answer = self.post(&path, json!({})).await;
        let id = answer["deployment_id"].as_str().unwrap();
        self.until_state(id, "completed").await;
    }

    /// The targets of a deployment, as text to be searched.
    pub(crate) async fn targets(&self, id: &str) -> String {
        let path = format!("/v1/deployments/{id}/targets");
        self.get(&path).await.to_string()
    }

    /// Ready when so many nodes have joined.
    pub(crate) async fn nodes(&self, count: usize) {
        let what = format!("{count} nodes are there");
        eventually(&what, async || {
            let nodes = self.get("/v1/nodes").await["nodes"]
                .as_array()
                .unwrap()
                .len();
            (nodes == count).then_some(())
        })
        .await;
    }
}

/// The service, with this in its environment and these fields besides.
pub(crate) fn service(env: &[(&str, &str)], more: Value) -> Value {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let mut job = json!({
        "job_id": "web", "driver": "exec", "env": env,
        "config": { "command": env!("CARGO_BIN_EXE_service") },
        "ports": [{ "name": "http" }],
        "checks": [{ "type": "http", "path": "/health", "interval": "200ms", "start_period": "3s" }],
        "restart": { "backoff": "200ms", "backoff_max": "1s" },
    });
    job.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    job
}

pub(crate) fn health() -> Value {
    json!({
        "deadline": "2m", "min_healthy_time": "1s", "interval": "1s", "failure_threshold": 2,
        "min_samples": 5,
    })
}

pub(crate) fn rolling() -> Value {
    json!({ "rollout": { "strategy": "rolling", "max_parallel": 1, "health_check": health() } })
}

pub(crate) fn canary() -> Value {
    json!({ "rollout": {
        "strategy": "canary", "max_parallel": 2, "canary_count": 1, "health_check": health(),
    } })
}

pub(crate) fn immediate() -> Value {
    json!({ "rollout": { "strategy": "immediate" } })
}
