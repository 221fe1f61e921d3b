//! Control groups: the kernel's way to hold a program, and all that it starts, to the `resources` of its job.
//!
//! A run with limits has a group of its own, `orchestrator/<its name>`. Of version 1 there is one for each limit, below the
//! agent's own group. Of version 2 it is below the group that was delegated to the agent, if the agent is in a group
//! `agent` of that one; else below the root.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | `memory_bytes`, swap included | `memory.limit_in_bytes`, `memory.memsw.limit_in_bytes` | `memory.max`, `memory.swap.max` |
//! | `cpus` | `cpu.cfs_quota_us` of `cpu.cfs_period_us` | `cpu.max` |
//! | `processes` | `pids.max` | `pids.max` |
//!
//! The shim steps into the group, starts the program, and steps out again: so nothing of the program was ever outside.
//!
//! What this node cannot hold a program to is remarked, and the program runs: it did so before there was a limit, and a fleet
//! in which a few nodes have no such groups is not to lose them by a new version.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::workload::Resources;

const PERIOD_MICROS: u64 = 100_000;
/// The kernel takes no less.
const QUOTA_MICROS_MIN: u64 = 1000;
/// While processes are killed others may begin.
const KILLS_MAX: usize = 20;
const PROCESSES: &str = "cgroup.procs";

/// What can be held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    /// What a job calls it.
    fn field(self) -> &'static str {
        match self {
            Self::Memory => "memory_bytes",
            Self::Cpu => "cpus",
            Self::Pids => "processes",
        }
    }

    /// What is to be written to hold it, in this order; `None` where nothing is to be held.
    fn files(self, version: Version, limits: Resources) -> Option<Vec<(&'static str, String)>> {
        let two = version == Version::Two;
        Some(match self {
            Self::Memory => {
                let bytes = limits.memory_bytes?.to_string();
                match two {
                    true => vec![("memory.max", bytes), ("memory.swap.max", "0".to_owned())],
                    false => vec![
                        ("memory.limit_in_bytes", bytes.clone()),
                        ("memory.memsw.limit_in_bytes", bytes),
                    ],
                }
            }
            Self::Cpu => {
                let quota = (limits.cpus? * PERIOD_MICROS as f64) as u64;
                let quota = quota.max(QUOTA_MICROS_MIN);
                match two {
                    true => vec![("cpu.max", format!("{quota} {PERIOD_MICROS}"))],
                    false => vec![
                        ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
                        ("cpu.cfs_quota_us", quota.to_string()),
                    ],
                }
            }
            // The shim is in it while it starts the program.
            Self::Pids => vec![("pids.max", (u64::from(limits.processes?) + 1).to_string())],
        })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    One,
    Two,
}

/// Where groups can be made.
#[derive(Debug)]
pub(crate) struct Groups(Vec<(Controller, Result<Base, String>)>);

/// Where the groups of one controller can be made.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Base {
    version: Version,
    /// The group that all of them are below.
    dir: PathBuf,
    /// The agent's own.
    own: PathBuf,
}

/// A group of a run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Group {
    dir: PathBuf,
    /// The agent's own, where the shim goes back to.
    own: PathBuf,
    /// So many at once, without the shim.
    processes: Option<u32>,
}

impl Groups {
    pub(crate) fn find() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let of = |controller| {
            let base = base(controller, &groups, &mounts).and_then(writable);
            (controller, base)
        };
        Self(Controller::ALL.map(of).into())
    }

    /// What can be held on this node, as jobs call it.
    pub(crate) fn fields(&self) -> String {
        let can = self.0.iter().filter(|(_, base)| base.is_ok());
        let fields: Vec<&str> = can.map(|(controller, _)| controller.field()).collect();
        match fields.is_empty() {
            true => "none".to_owned(),
            false => fields.join(" "),
        }
    }

    /// Those of a run of which nobody has written down which they are.
    pub(crate) fn of(&self, name: &str) -> Vec<Group> {
        let bases = self.0.iter().filter_map(|(_, base)| base.as_ref().ok());
        let groups = bases.map(|base| Group {
            dir: base.group(name),
            own: base.own.clone(),
            processes: None,
        });
        groups.filter(|group| group.dir.exists()).collect()
    }

    /// Makes the groups of a run, which may be there already. Also a sentence for each limit that will not be held.
    pub(crate) fn make(&self, name: &str, limits: Resources) -> (Vec<Group>, Vec<String>) {
        let (mut groups, mut remarks) = (Vec::new(), Vec::new());
        for (controller, base) in &self.0 {
            let files = |base: &Base| controller.files(base.version, limits);
            let made = match base {
                Ok(base) => files(base).map(|files| {
                    let dir = base.group(name);
                    let made = base.make(*controller, &dir, &files);
                    made.map_err(|why| format!("{}: {why}", dir.display()))
                        .map(|()| (dir, base.own.clone()))
                }),
                Err(why) => controller
                    .files(Version::One, limits)
                    .map(|_| Err(why.clone())),
            };
            match made {
                None => {}
                Some(Ok((dir, own))) => {
                    let processes = (*controller == Controller::Pids)
                        .then_some(limits.processes)
                        .flatten();
                    groups.push(Group {
                        dir,
                        own,
                        processes,
                    });
                }
                Some(Err(why)) => {
                    let field = controller.field();
                    remarks.push(format!(
                        "resources: {field}: not held to it on this node: {why}"
                    ));
                }
            }
        }
        (groups, remarks)
    }
}

/// Finds where groups of a controller can be made: in the list of this process's groups, and in that of mounts.
fn base(controller: Controller, groups: &str, mounts: &str) -> Result<Base, String> {
    let name = controller.name();
    let own = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(id, controllers).then(|| path.to_owned())
        })
    };
    let has = |list: &str| list.split(',').any(|word| word == name);
    let one = own(&|_, controllers| has(controllers)).zip(mount(mounts, |kind, options| {
        kind == "cgroup" && has(options)
    }));
    if let Some((path, mount)) = one {
        let own = mount.dir_of(&path);
        return Ok(Base {
            version: Version::One,
            dir: own.clone(),
            own,
        });
    }
    let two = own(&|id, controllers| id == "0" && controllers.is_empty())
        .zip(mount(mounts, |kind, _| kind == "cgroup2"));
    let Some((path, mount)) = two else {
        return Err("it has no control groups".to_owned());
    };
    let own = mount.dir_of(&path);
    let delegated = own.file_name().is_some_and(|name| name == "agent");
    let dir = match own.parent().filter(|_| delegated) {
        Some(parent) => parent.to_owned(),
        None => mount.point,
    };
    Ok(Base {
        version: Version::Two,
        dir,
        own,
    })
}

struct Mount {
    /// What of the hierarchy is seen there.
    root: String,
    point: PathBuf,
}

impl Mount {
    fn dir_of(&self, path: &str) -> PathBuf {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        match below.trim_start_matches('/') {
            "" => self.point.clone(),
            below => self.point.join(below),
        }
    }
}

fn mount(mounts: &str, is: impl Fn(&str, &str) -> bool) -> Option<Mount> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        let mut mount = mount.split(' ');
        let (root, point) = (mount.nth(3)?, mount.next()?);
        is(kind, options).then(|| Mount {
            root: root.to_owned(),
            point: point.into(),
        })
    })
}

fn writable(base: Base) -> Result<Base, String> {
    let may = rustix::fs::access(&base.dir, Access::WRITE_OK);
    may.map_err(|why| format!("{}: {}", base.dir.display(), io::Error::from(why)))?;
    Ok(base)
}

impl Base {
    /// The group of the run of this name.
    fn group(&self, name: &str) -> PathBuf {
        self.dir.join("orchestrator").join(name)
    }

    fn make(&self, controller: Controller, dir: &Path, files: &[(&str, String)]) -> io::Result<()> {
        let all = dir.parent().expect("it is below a group");
        fs::create_dir_all(dir)?;
        if self.version == Version::Two {
            for above in [&self.dir, all] {
                let passed_on = above.join("cgroup.subtree_control");
                put(&passed_on, &format!("+{}", controller.name()))?;
            }
        }
        for (at, (file, value)) in files.iter().enumerate() {
            match put(&dir.join(file), value) {
                // A kernel that does not count swap has no file for it.
                Err(why) if at > 0 && why.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
        Ok(())
    }
}

impl Group {
    /// From now on, whatever this process starts is in the group.
    pub(crate) fn step_in(&self) -> io::Result<()> {
        join(&self.dir).map_err(|why| {
            let dir = self.dir.display();
            io::Error::other(format!("{dir}: the group cannot be joined: {why}"))
        })
    }

    /// What was started stays in the group.
    pub(crate) fn step_out(&self) -> io::Result<()> {
        join(&self.own)?;
        match self.processes {
            Some(processes) => put(&self.dir.join("pids.max"), &processes.to_string()),
            None => Ok(()),
        }
    }

    /// So many processes were killed for want of memory.
    pub(crate) fn killed_for_memory(&self) -> u64 {
        let counts = ["memory.events", "memory.oom_control"];
        let count = counts.iter().find_map(|file| {
            let counts = fs::read_to_string(self.dir.join(file)).ok()?;
            let line = counts
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill "))?;
            line.parse().ok()
        });
        count.unwrap_or(0)
    }

    /// Kills all that is in it, which may be nothing.
    pub(crate) fn kill(&self) {
        for _ in 0..KILLS_MAX {
            let pids = fs::read_to_string(self.dir.join(PROCESSES)).unwrap_or_default();
            if pids.is_empty() {
                return;
            }
            let pids = pids
                .lines()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
            // A shim that could not step out.
            let own = rustix::process::getpid();
            for pid in pids.filter(|pid| *pid != own) {
                // It may be gone.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Fails for as long as something is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.dir) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => Ok(()),
        }
    }
}

fn join(dir: &Path) -> io::Result<()> {
    // Whoever writes it.
    put(&dir.join(PROCESSES), "0")
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    // Not made where it is not there: then it would be forbidden, and not missing.
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/7 /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const TWO: &str = "\
35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

    fn found(controller: Controller, groups: &str, mounts: &str) -> (Version, String, String) {
        let Base { version, dir, own } = base(controller, groups, mounts).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (version, text(dir), text(own))
    }

    #[test]
    fn groups_are_made_where_the_agent_may() {
        let groups = "5:cpu,cpuacct:/a.service\n4:memory:/docker/7/b\n0::/c\n";
        let cpu = "/sys/fs/cgroup/cpu,cpuacct/a.service".to_owned();
        assert_eq!(
            found(Controller::Cpu, groups, ONE),
            (Version::One, cpu.clone(), cpu)
        );
        let memory = "/sys/fs/cgroup/memory/b".to_owned();
        assert_eq!(
            found(Controller::Memory, groups, ONE),
            (Version::One, memory.clone(), memory)
        );
        for (own, base) in [
            ("/", "/sys/fs/cgroup"),
            ("/user.slice/x.scope", "/sys/fs/cgroup"),
            (
                "/system.slice/a.service/agent",
                "/sys/fs/cgroup/system.slice/a.service",
            ),
        ] {
            let groups = format!("0::{own}\n");
            let (version, dir, _) = found(Controller::Pids, &groups, TWO);
            assert_eq!(version, Version::Two);
            assert_eq!(Path::new(&dir), Path::new(base));
        }
        let why = base(Controller::Pids, "", "").unwrap_err();
        assert_eq!(why, "it has no control groups");
    }

    #[test]
    fn limits_are_written_in_both_versions() {
        let limits = Resources {
            memory_bytes: Some(1 << 20),
            cpus: Some(0.5),
            processes: Some(7),
        };
        let written = |version| {
            let all = Controller::ALL.map(|controller| controller.files(version, limits));
            let all = all.into_iter().flatten().flatten();
            let all = all.map(|(file, value)| format!("{file} = {value}"));
            all.collect::<Vec<_>>()
        };
        let one = [
            "memory.limit_in_bytes = 1048576",
            "memory.memsw.limit_in_bytes = 1048576",
            "cpu.cfs_period_us = 100000",
            "cpu.cfs_quota_us = 50000",
            "pids.max = 8",
        ];
        assert_eq!(written(Version::One), one);
        let two = [
            "memory.max = 1048576",
            "memory.swap.max = 0",
            "cpu.max = 50000 100000",
            "pids.max = 8",
        ];
        assert_eq!(written(Version::Two), two);
    }

    #[test]
    fn what_cannot_be_held_is_said() {
        let away = || Err("it has no control groups".to_owned());
        let groups = Groups(vec![
            (Controller::Memory, away()),
            (Controller::Pids, away()),
        ]);
        let limits = Resources {
            processes: Some(1),
            ..Resources::default()
        };
        let (made, remarks) = groups.make("run", limits);
        assert_eq!(made, []);
        let said = "resources: processes: not held to it on this node: it has no control groups";
        assert_eq!(remarks, [said]);
        assert_eq!(groups.fields(), "none");
    }
}
