//! A server and nodes, each in a network namespace of its own, and a link from each node to the server.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::harness::{Node, eventually, inside, known};

/// What the names of all namespaces begin with.
const OURS: &str = "orchestrator-test-";
/// A node's end of its link; the server's is called as the node is.
const UP: &str = "uplink";

/// The namespaces and the links between them. They end with this.
struct Net {
    name: String,
    nodes: usize,
}

impl Net {
    /// `None` where this machine or this user can have none.
    fn lay(nodes: usize) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let tools = ["ip", "iptables", "nsenter", "tc"];
        if !rustix::process::geteuid().is_root() || !tools.into_iter().all(known) {
            eprintln!("SKIPPED: this is not root, or one of {tools:?} is not there");
            return None;
        }
        sweep();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            name: format!("{OURS}{}-{made}", std::process::id()),
            nodes,
        };
        if let Err(why) = tried(&format!("ip netns add {}", net.server())) {
            eprintln!("SKIPPED: no network namespace can be made here: {why}");
            return None;
        }
        told(&format!("ip -n {} link set lo up", net.server()));
        (0..nodes).for_each(|node| net.link(node));
        Some(net)
    }

    fn link(&self, node: usize) {
        let (server, there) = (self.server(), self.node(node));
        let end = end(node);
        for words in [
            format!("ip netns add {there}"),
            format!("ip -n {there} link set lo up"),
            format!("ip link add {end} netns {server} type veth peer name {UP} netns {there}"),
            format!(
                "ip -n {server} address add {}/30 dev {end}",
                address(node, 1)
            ),
            format!("ip -n {there} address add {}/30 dev {UP}", address(node, 2)),
            format!("ip -n {server} link set {end} up"),
            format!("ip -n {there} link set {UP} up"),
        ] {
            told(&words);
        }
    }

    fn server(&self) -> String {
        format!("{}-server", self.name)
    }

    fn node(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn all(&self) -> impl Iterator<Item = String> {
        let nodes = (0..self.nodes).map(|node| self.node(node));
        nodes.chain([self.server()])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.all() {
            // Where it was never made, there is nothing to take away.
            let _ = tried(&format!("ip netns del {name}"));
        }
    }
}

/// Takes away what killed tests have left: their namespaces, and the processes in them.
fn sweep() {
    for line in tried("ip netns list").unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let maker = name.strip_prefix(OURS).and_then(|rest| {
            let (maker, _) = rest.split_once('-')?;
            maker.parse::<u32>().ok()
        });
        if maker.is_none_or(|maker| std::path::Path::new(&format!("/proc/{maker}")).exists()) {
            continue;
        }
        // Another test may do the same.
        let pids = tried(&format!("ip netns pids {name}")).unwrap_or_default();
        for pid in pids
            .lines()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = tried(&format!("ip netns del {name}"));
    }
}

fn end(node: usize) -> String {
    format!("n{}", node + 1)
}

fn address(node: usize, side: usize) -> String {
    format!("10.77.{node}.{side}")
}

/// What a command says, or why it fails.
fn tried(words: &str) -> Result<String, String> {
    let mut words = words.split(' ');
    let ran = Command::new(words.next().unwrap()).args(words).output();
    let ran = ran.map_err(|why| why.to_string())?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
    }
}

fn told(words: &str) -> String {
    tried(words).unwrap_or_else(|why| panic!("{words}: {why}"))
}

/// The server with TLS and tokens, and agents that have joined it. All of it ends with this.
pub(crate) struct Site {
    pub(crate) nodes: Vec<Node>,
    server: Child,
    token: String,
    dir: TempDir,
    net: Net,
}

impl Site {
    /// `None` where this machine or this user can have no namespaces.
    pub(crate) async fn begin(nodes: usize) -> Option<Self> {
        let net = Net::lay(nodes)?;
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = (0..nodes).map(|node| address(node, 1)).collect();
        let cert = rcgen::CertificateParams::new(names).unwrap();
        let cert = cert.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        let token = token(&dir, &["--name", "operator", "--role", "admin"]);
        let mut site = Self {
            nodes: Vec::new(),
            server: server(&net, &dir),
            token,
            dir,
            net,
        };
        site.answers().await;
        for at in 0..nodes {
            site.nodes.push(site.node(at).await);
        }
        eventually("all nodes are there", async || {
            let listed = site.told(&["node", "list"], "").await;
            (listed["nodes"].as_array()?.len() == nodes).then_some(())
        })
        .await;
        Some(site)
    }

    async fn node(&self, at: usize) -> Node {
        let name = end(at);
        let role = [
            "token", "create", "--name", &name, "--role", "join", "--node", &name,
        ];
        let made = self.told(&role, "").await;
        let token = self.dir.path().join(format!("{name}.token"));
        std::fs::write(&token, made["token"].as_str().unwrap()).unwrap();
        let url = format!("https://{}:4650", address(at, 1));
        let mut node = Node::inside(self.net.node(at), &url, &name);
        let cert = self.dir.path().join("cert.pem");
        let [token, cert] = [&token, &cert].map(|path| path.to_str().unwrap());
        node.start_apart(&["--token-file", token, "--ca-cert", cert]);
        node
    }

    async fn answers(&self) {
        eventually("the server answers", async || {
            self.ask(&["node", "list"], "").await.ok()
        })
        .await;
    }

    /// The server is killed, and another one begins at the same address, with what the first had written.
    pub(crate) async fn replace_server(&mut self) {
        self.server.kill().await.unwrap();
        self.server = server(&self.net, &self.dir);
        self.answers().await;
    }

    /// What an operator's command line answers, or why it fails.
    async fn ask(&self, words: &[&str], input: &str) -> Result<Value, String> {
        let program = env!("CARGO_BIN_EXE_server");
        let mut command: tokio::process::Command = inside(&self.net.server(), program).into();
        let mut child = command
            .args(["--address", &format!("https://{}:4650", address(0, 1))])
            .arg("--ca-cert")
            .arg(self.dir.path().join("cert.pem"))
            .args(["--output", "json"])
            .args(words)
            .env("ORCHESTRATOR_TOKEN", &self.token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let ended = child.wait_with_output().await.unwrap();
        match ended.status.success() {
            true => Ok(serde_json::from_slice(&ended.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
        }
    }

    pub(crate) async fn told(&self, words: &[&str], input: &str) -> Value {
        let answer = self.ask(words, input).await;
        answer.unwrap_or_else(|why| panic!("{words:?}: {why}"))
    }

    /// Registers a job, and answers the id of its deployment.
    pub(crate) async fn run(&self, job: Value) -> String {
        let words = ["job", "run", "-", "--detach"];
        let answer = self.told(&words, &job.to_string()).await;
        answer["deployment_id"].as_str().unwrap().to_owned()
    }

    /// The deployment, as soon as this is true of it.
    pub(crate) async fn until(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            let shown = self.told(&["deployment", "status", id], "").await;
            is(&shown["deployment"]).then(|| shown["deployment"].clone())
        })
        .await
    }

    pub(crate) async fn completed(&self, id: &str) -> Value {
        let over = |shown: &Value| !shown["status"]["completed_at"].is_null();
        let shown = self.until(id, "the deployment is over", over).await;
        assert_eq!(shown["status"]["state"], "completed", "{shown:#}");
        shown
    }

    /// What the server says of a node, as soon as it says this.
    pub(crate) async fn sees(&self, at: usize, status: &str) {
        let name = &self.nodes[at].name;
        eventually(&format!("{name} is {status}"), async || {
            let shown = self.told(&["node", "status", name], "").await;
            (shown["node"]["status"] == status).then_some(())
        })
        .await;
    }

    /// The service's one process, as soon as it is of this version and well.
    pub(crate) async fn runs(&self, at: usize, version: u32) -> i32 {
        let node = &self.nodes[at];
        let what = format!("{} runs version {version}, and nothing else", node.name);
        eventually(&what, async || {
            let status = node.status().await?;
            let well = status["runs"].as_array()?.iter().any(|run| {
                run["phase"] == "running" && run["version"] == version && run["ready"] == true
            });
            match node.processes()[..] {
                [pid] if well => Some(pid),
                _ => None,
            }
        })
        .await
    }

    /// The versions that a node has started, in their order.
    pub(crate) fn started(&self, at: usize) -> Vec<u32> {
        let name = &self.nodes[at].name;
        let journal = std::fs::read_to_string(self.journal()).unwrap_or_default();
        let words = journal
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let its = words.filter(|words| words[0] == name);
        its.map(|words| words[2].parse().unwrap()).collect()
    }

    /// Where services write that they have started.
    pub(crate) fn journal(&self) -> String {
        let path = self.dir.path().join("journal");
        path.to_str().unwrap().to_owned()
    }

    /// The node's cable is pulled.
    pub(crate) fn cut(&self, at: usize) {
        told(&format!(
            "ip -n {} link set {} down",
            self.net.server(),
            end(at)
        ));
    }

    /// What is sent to the node is lost, and nobody is told.
    pub(crate) fn deafen(&self, at: usize) {
        self.rule(at, &format!("INPUT -i {UP} -j DROP"));
    }

    /// What the node sends is lost, and nobody is told.
    pub(crate) fn mute(&self, at: usize) {
        self.rule(at, &format!("OUTPUT -o {UP} -j DROP"));
    }

    /// Every packet of every link takes 300 ms, and one of twenty is lost. Where the kernel cannot do the first, only the
    /// second.
    pub(crate) fn worsen(&self) {
        for at in 0..self.net.nodes {
            let ends = [
                (self.net.server(), end(at)),
                (self.net.node(at), UP.to_owned()),
            ];
            let made = ends.into_iter().try_for_each(|(namespace, end)| {
                let how = "root netem delay 300ms loss 5%";
                tried(&format!("tc -n {namespace} qdisc add dev {end} {how}")).map(drop)
            });
            if let Err(why) = made {
                eprintln!("SKIPPED: the delay, not the loss: this kernel has no netem: {why}");
                self.lose(at);
            }
        }
    }

    /// One packet of twenty, in both directions.
    fn lose(&self, at: usize) {
        for chain in ["INPUT -i", "OUTPUT -o"] {
            let often = "-m statistic --mode random --probability 0.05";
            self.rule(at, &format!("{chain} {UP} {often} -j DROP"));
        }
    }

    fn rule(&self, at: usize, rule: &str) {
        let namespace = self.net.node(at);
        told(&format!(
            "nsenter --net=/run/netns/{namespace} iptables -A {rule}"
        ));
    }

    /// The node's link is as good as new.
    pub(crate) fn heal(&self, at: usize) {
        let namespace = self.net.node(at);
        told(&format!(
            "ip -n {} link set {} up",
            self.net.server(),
            end(at)
        ));
        told(&format!("nsenter --net=/run/netns/{namespace} iptables -F"));
    }

    /// All bytes that have gone over the node's link, in both directions, with all headers.
    pub(crate) fn carried(&self, at: usize) -> u64 {
        let shown = told(&format!("ip -n {} -s -j link show {UP}", self.net.node(at)));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let counts = &shown[0]["stats64"];
        let bytes = |way: &str| counts[way]["bytes"].as_u64().unwrap();
        bytes("rx") + bytes("tx")
    }
}

/// Makes a token while no server runs.
fn token(dir: &TempDir, words: &[&str]) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_server"))
        .args(["token", "create", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(words)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{why}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn server(net: &Net, dir: &TempDir) -> Child {
    let mut log = std::fs::OpenOptions::new();
    let log = log.create(true).append(true);
    let log = log.open(dir.path().join("server.log")).unwrap();
    let program = env!("CARGO_BIN_EXE_server");
    let mut server: tokio::process::Command = inside(&net.server(), program).into();
    server
        .args(["server", "--listen", "0.0.0.0:4650", "--data-dir"])
        .arg(dir.path().join("data"))
        .arg("--tls-cert")
        .arg(dir.path().join("cert.pem"))
        .arg("--tls-key")
        .arg(dir.path().join("key.pem"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
