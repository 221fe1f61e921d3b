//! From a job's `config` to what the engine is told.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::driver::exec::Words;
use crate::runs::Run;
use crate::workload::{Workload, fault, variable};

/// The word for where what it brings along is.
const ARTIFACT: &str = "{ARTIFACT}";

/// Labels of containers: the name of the node, the run's directory, and whose containers they are.
pub(super) const NODE: &str = "orchestrator.node";
pub(super) const RUN: &str = "orchestrator.run";
pub(super) const AGENT: &str = "orchestrator.agent";

/// What a job says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) image: String,
    #[serde(default)]
    pub(super) pull: Pull,
    entrypoint: Option<Words>,
    #[serde(default)]
    args: Vec<String>,
    user: Option<String>,
    directory: Option<String>,
    network: Option<String>,
    #[serde(default)]
    init: bool,
    #[serde(default)]
    ports: BTreeMap<String, u16>,
    #[serde(default)]
    publish_on: Publish,
    pub(super) stop_signal: Option<String>,
    log_bytes: Option<u64>,
    log_files: Option<u32>,
    /// Every driver has it, and it has been read before: it is only to be among those that are named.
    #[serde(rename = "stop_grace")]
    _stop_grace: Option<IgnoredAny>,
}

/// When an image is brought here.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pull {
    #[default]
    Missing,
    Always,
    Never,
}

/// Who may reach a port.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
enum Publish {
    #[default]
    #[serde(rename = "127.0.0.1")]
    Here,
    #[serde(rename = "0.0.0.0")]
    Everywhere,
}

/// The run as the container sees it: what it brings along is where a volume puts it.
fn inside(run: &Run) -> Run {
    let volumes = &run.workload.volumes;
    let volume = volumes.iter().find(|volume| volume.source == ARTIFACT);
    Run {
        artifact: volume.map(|volume| volume.target.clone().into()),
        ..run.clone()
    }
}

impl Config {
    pub(super) fn read(workload: &Workload) -> Result<Self, String> {
        let config = Value::Object(workload.config.clone());
        let config: Self = fault::read(&config).map_err(|why| format!("config: {why}"))?;
        if config.image.is_empty() || config.image.contains(char::is_whitespace) {
            return Err(format!("config: image: {:?} is no image", config.image));
        }
        let known = |name: &&String| !workload.ports.iter().any(|port| port.name == **name);
        if let Some(name) = config.ports.keys().find(known) {
            return Err(format!("config: ports: there is no port {name:?}"));
        }
        if config.on_host() && !config.ports.is_empty() {
            return Err("config: ports: on the host's network there is nothing to map".to_owned());
        }
        Ok(config)
    }

    fn on_host(&self) -> bool {
        self.network.as_deref() == Some("host")
    }

    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes.unwrap_or(1 << 20).clamp(
            super::super::exec::LOG_BYTES_MIN,
            super::super::exec::LOG_BYTES_MAX,
        )
    }

    pub(super) fn log_files(&self) -> u32 {
        self.log_files.unwrap_or(2).clamp(1, 100)
    }

    /// The port inside, where a run has this one on the node.
    fn inside(&self, name: &str, outside: u16) -> u16 {
        self.ports.get(name).copied().unwrap_or(outside)
    }

    /// What it finds in its environment: ports and paths are those inside.
    pub(super) fn environment(&self, run: &Run) -> Vec<String> {
        let mut env = inside(run).environment();
        // The image has its own.
        if !run.workload.env.contains_key("PATH") {
            env.remove("PATH");
        }
        env.remove(crate::shim::RUN);
        for (at, port) in run.workload.ports.iter().enumerate() {
            let Some(&outside) = run.ports.get(&port.name) else {
                continue;
            };
            let inside = self.inside(&port.name, outside).to_string();
            let names = [
                Some(format!("PORT_{}", variable(&port.name))),
                (at == 0).then(|| "PORT".to_owned()),
            ];
            for name in names.into_iter().flatten() {
                if !run.workload.env.contains_key(&name) {
                    env.insert(name, inside.clone());
                }
            }
        }
        let env = env.into_iter();
        env.map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The container that it becomes.
    pub(super) fn container(&self, run: &Run, agent: Option<&str>) -> Value {
        let seen = inside(run);
        let address = match self.publish_on {
            Publish::Here => "127.0.0.1",
            Publish::Everywhere => "0.0.0.0",
        };
        let (mut exposed, mut bound) = (json!({}), json!({}));
        if !self.on_host() {
            for (name, &outside) in &run.ports {
                let inside = format!("{}/tcp", self.inside(name, outside));
                exposed[&inside] = json!({});
                bound[&inside] = json!([{ "HostIp": address, "HostPort": outside.to_string() }]);
            }
        }
        let expand = |words: &[String]| -> Vec<String> {
            words.iter().map(|word| seen.expand(word)).collect()
        };
        let binds: Vec<String> = (run.workload.volumes.iter())
            .map(|volume| {
                // What it brings along is of other runs, too.
                let read_only = volume.read_only || volume.source.contains(ARTIFACT);
                let how = if read_only { "ro" } else { "rw" };
                format!("{}:{}:{how}", run.expand(&volume.source), volume.target)
            })
            .collect();
        let resources = &run.workload.resources;
        let id = &run.id;
        let mut container = json!({
            "Image": self.image,
            "Env": self.environment(run),
            "ExposedPorts": exposed,
            "Labels": {
                NODE: &*run.node,
                "orchestrator.job": format!("{}/{}", id.key.job.namespace(), id.key.job.name()),
                "orchestrator.slot": id.key.slot.to_string(),
                "orchestrator.version": run.version.to_string(),
                RUN: run.dir.to_string_lossy(),
            },
            "HostConfig": {
                "PortBindings": bound,
                "Binds": binds,
                "Init": self.init,
                // Whether it is started again is for the agent to say.
                "RestartPolicy": { "Name": "no" },
                "LogConfig": {
                    "Type": "json-file",
                    "Config": { "max-size": self.log_bytes().to_string(), "max-file": "2" },
                },
                "Memory": resources.memory_bytes.unwrap_or(0),
                // Of both together: nothing is left for swap.
                "MemorySwap": resources.memory_bytes.unwrap_or(0),
                "NanoCpus": resources.nano_cpus(),
                "PidsLimit": resources.processes,
                "NetworkMode": self.network.as_deref().unwrap_or("bridge"),
            },
        });
        if let Some(agent) = agent {
            container["Labels"][AGENT] = json!(agent);
        }
        if let Some(entrypoint) = &self.entrypoint {
            container["Entrypoint"] = json!(expand(entrypoint.as_slice()));
        }
        if !self.args.is_empty() {
            container["Cmd"] = json!(expand(&self.args));
        }
        if let Some(user) = &self.user {
            container["User"] = json!(user);
        }
        if let Some(directory) = &self.directory {
            container["WorkingDir"] = json!(seen.expand(directory));
        }
        if let Some(signal) = &self.stop_signal {
            container["StopSignal"] = json!(signal);
        }
        container
    }
}
