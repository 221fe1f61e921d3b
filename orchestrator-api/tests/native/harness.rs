//! A server of its own for each test, and clients that speak to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, Request, Response};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use orchestrator_api::access::{Access, Opening};
use orchestrator_api::engine::{Engine, Settings};
use orchestrator_api::native;
use orchestrator_api::serve::{Limits, serve};
use orchestrator_api::store::sqlite::Sqlite;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a store in a directory of its own.
pub(crate) struct Server {
    pub(crate) client: Api,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    engine: Option<Engine>,
    agents: Vec<JoinHandle<()>>,
    /// Absent after the end.
    dir: Option<TempDir>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(dir: TempDir) -> Self {
        let store = Arc::new(Sqlite::open(dir.path()).unwrap());
        let access = Access::new(store.clone(), Opening::Open, Default::default());
        let engine = Engine::start(store, Settings::default()).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let api = native::Api::new(engine.handle(), access);
        let router = api.router();
        let served = async move {
            serve(listener, None, router, Limits::default(), async {
                // An error means that the test is over: an end like the other.
                let _ = stopped.await;
                api.stop();
            })
            .await;
        };
        Self {
            client: Api::of(address),
            stop: Some(stop),
            served: Some(tokio::spawn(served)),
            engine: Some(engine),
            agents: Vec::new(),
            dir: Some(dir),
        }
    }

    /// Lets the agents report nothing more. It takes a lease until that is noticed.
    pub(crate) fn silence(&mut self) {
        for agent in self.agents.drain(..) {
            agent.abort();
        }
    }

    /// Tells the server to end, and does not wait for it.
    pub(crate) fn tell_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Ends it all in good order; what it wrote stays as long as what this gives.
    pub(crate) async fn stop(mut self) -> TempDir {
        for agent in self.agents.drain(..) {
            agent.abort();
            let _ = agent.await;
        }
        if self.stop.is_some() {
            self.tell_to_stop();
        }
        self.served.take().unwrap().await.unwrap();
        self.engine.take().unwrap().stop().await;
        self.dir.take().unwrap()
    }

    /// Nodes with agents that start what they are told to, and report on it as `fate` says.
    pub(crate) async fn nodes(&mut self, count: usize, fate: fn(&Value) -> Fate) {
        for number in 1..=count {
            let name = format!("n{number}");
            let labels = json!({ "zone": format!("z{}", number % 2) });
            let joined = json!({ "name": name, "labels": labels });
            let reply = self.client.post("/v1/agent/join", joined).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let agent = Agent {
                client: self.client.clone(),
                name,
                reported: BTreeMap::new(),
                fate,
            };
            self.agents.push(tokio::spawn(agent.run()));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for agent in &self.agents {
            agent.abort();
        }
    }
}

/// A client.
#[derive(Clone)]
pub(crate) struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    pub(crate) address: SocketAddr,
    token: Option<String>,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// What is wrong, as (status, kind, [(where, detail)]).
    pub(crate) fn problem(&self) -> (u16, String, Vec<(String, String)>) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        for field in ["title", "detail"] {
            assert!(problem[field].is_string(), "{problem}");
        }
        let kind = problem["type"].as_str().unwrap();
        let kind = kind.strip_prefix("urn:orchestrator:problem:").unwrap();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let errors = errors.iter().map(|error| {
            let places = ["pointer", "parameter", "header"];
            let place = places.iter().find_map(|place| error[place].as_str());
            let detail = error["detail"].as_str().unwrap();
            (place.unwrap().to_owned(), detail.to_owned())
        });
        (self.status, kind.to_owned(), errors.collect())
    }
}

impl Api {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            address,
            token: None,
        }
    }

    /// The same, with a token that there is.
    pub(crate) fn showing(&self, token: &str) -> Self {
        Self {
            token: Some(format!("Bearer {token}")),
            ..self.clone()
        }
    }

    /// What it shows as authorization.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The same, with a token that is made for it.
    pub(crate) async fn with_token(&self, token: Value) -> (String, Self) {
        let made = self.post("/v1/tokens", token).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        let client = Self {
            token: Some(format!("Bearer {}", text("token"))),
            ..self.clone()
        };
        (text("id"), client)
    }

    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response<BoxBody<Bytes, String>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        let token = self.token.as_deref();
        let token = token.map(|token| ("authorization", token));
        for (name, value) in headers.iter().copied().chain(token) {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let response = self.http.request(request).await.unwrap();
        response.map(|body| body.map_err(|why| why.to_string()).boxed())
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.open(method, path, headers, body.into()).await;
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.post_with(path, &[], body).await
    }

    pub(crate) async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Reply {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(Method::POST, path, &all, body.to_string()).await
    }

    /// Registers a job, and answers the id of its deployment.
    pub(crate) async fn register(&self, job: Value) -> String {
        let reply = self.post("/v1/jobs", job).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["deployment_id"].as_str().unwrap().to_owned()
    }

    /// The same, and waits until it is completed.
    pub(crate) async fn rolled_out(&self, job: Value) -> String {
        let id = self.register(job).await;
        self.until_state(&id, "completed").await;
        id
    }

    /// Registers a job of this name that waits in its first wave: its nodes say nothing.
    pub(crate) async fn under_way(&self, name: &str) -> String {
        let silent = json!({ "fate": "silent" });
        self.register(job(name, rolling(), silent)).await
    }

    pub(crate) async fn deployment(&self, id: &str) -> Value {
        let reply = self.get(&format!("/v1/deployments/{id}")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["deployment"].clone()
    }

    /// The deployment, as soon as this is true of it.
    pub(crate) async fn until(&self, id: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut shown = self.deployment(id).await;
        while !is(&shown) {
            let final_states = ["completed", "failed", "canceled"];
            let state = shown["status"]["state"].as_str().unwrap();
            assert!(!final_states.contains(&state), "it is over: {shown:#}");
            let revision = &shown["status"]["revision"];
            let path = format!("/v1/deployments/{id}?revision={revision}&wait=30s");
            shown = self.get(&path).await.json()["deployment"].clone();
        }
        shown
    }

    pub(crate) async fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(id, |shown| shown["status"]["state"] == state)
            .await
    }

    /// An event stream.
    pub(crate) async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut all = vec![("accept", "text/event-stream")];
        all.extend(headers);
        let response = self.open(Method::GET, path, &all, Bytes::new()).await;
        let (parts, body) = response.into_parts();
        assert_eq!(parts.status, 200);
        assert_eq!(parts.headers["content-type"], "text/event-stream");
        Stream {
            body,
            text: String::new(),
        }
    }
}

pub(crate) struct Stream {
    body: BoxBody<Bytes, String>,
    text: String,
}

impl Stream {
    /// The next event's id and data; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(u64, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines();
                    let mut found = lines.filter_map(|line| line.strip_prefix(name));
                    found.next().map(|value| value.trim_start().to_owned())
                };
                let (id, data) = (field("id:"), field("data:"));
                self.text = rest.to_owned();
                match id.zip(data) {
                    Some((id, data)) => {
                        return Some((id.parse().unwrap(), serde_json::from_str(&data).unwrap()));
                    }
                    // A comment.
                    None => continue,
                }
            }
            let frame = self.body.frame().await?;
            let data = frame.unwrap().into_data().unwrap();
            self.text += std::str::from_utf8(&data).unwrap();
        }
    }
}

/// What becomes of an execution.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Fate {
    Well,
    Bad,
    Silent,
}

pub(crate) fn well(_: &Value) -> Fate {
    Fate::Well
}

/// By what the job's `config` says, or its environment: a job file has no room for it in its `config`.
pub(crate) fn as_told(spec: &Value) -> Fate {
    let config = spec["config"]["fate"].as_str();
    match config.or_else(|| spec["env"]["FATE"].as_str()) {
        Some("bad") => Fate::Bad,
        Some("silent") => Fate::Silent,
        _ => Fate::Well,
    }
}

/// A node that runs nothing, and says that it does.
struct Agent {
    client: Api,
    name: String,
    reported: BTreeMap<(String, u64), u64>,
    fate: fn(&Value) -> Fate,
}

impl Agent {
    async fn run(mut self) {
        let path = format!("/v1/agent/stream?node={}", self.name);
        let mut desired = self.client.stream(&path, &[]).await;
        while let Some((revision, desired)) = desired.next().await {
            assert_eq!(desired["revision"], revision);
            self.report(&desired).await;
        }
    }

    async fn report(&mut self, desired: &Value) {
        let mut reports = Vec::new();
        for execution in desired["executions"].as_array().unwrap() {
            let job = execution["job"].as_str().unwrap().to_owned();
            let generation = execution["generation"].as_u64().unwrap();
            let slot = execution["slot"].as_u64().unwrap();
            let version = execution["version"].to_string();
            let spec = &desired["workloads"][&job][&version];
            let stops = version == "0";
            assert_eq!(spec["config"].is_object(), !stops, "{desired}");
            let fate = if stops { Fate::Well } else { (self.fate)(spec) };
            let known = self.reported.insert((job.clone(), slot), generation);
            if execution["target"].is_null() || fate == Fate::Silent || known == Some(generation) {
                continue;
            }
            let ok = fate == Fate::Well;
            for number in 1..=3 {
                let observation = match stops {
                    true => json!({ "kind": "stopped" }),
                    false => json!({ "kind": "interval", "checks": ok }),
                };
                reports.push(json!({
                    "job": job, "slot": slot, "generation": generation,
                    "target": execution["target"], "number": number, "observation": observation,
                }));
            }
        }
        let body = json!({ "node": self.name, "reports": reports });
        let reply = self.client.post("/v1/agent/reports", body).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
}

pub(crate) fn rolling() -> Value {
    json!({
        "strategy": "rolling", "max_parallel": 1,
        "health_check": { "deadline": "1m", "min_healthy_time": "0s", "failure_threshold": 1 },
    })
}

pub(crate) fn canary() -> Value {
    json!({
        "strategy": "canary", "max_parallel": 2, "canary_count": 1,
        "health_check": { "deadline": "1m", "min_healthy_time": "0s", "failure_threshold": 1 },
    })
}

pub(crate) fn immediate() -> Value {
    json!({ "strategy": "immediate" })
}

/// A job document.
pub(crate) fn job(name: &str, rollout: Value, config: Value) -> Value {
    json!({ "job_id": name, "driver": "exec", "config": config, "rollout": rollout })
}
