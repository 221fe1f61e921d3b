//! Plays a story written in plain words against a job, and checks after every line what must always
//! hold. `tests/scripts/README.md` lists the words.

#![allow(dead_code, reason = "each test binary uses its part")]

use orchestrator_core::selector::Selector;
use orchestrator_core::spec::{
    Canaries, HealthCheck, JobSpec, JobType, OnFailure, Placement, RolloutSpec, Strategy,
};
use orchestrator_core::{
    Command, DeploymentId, Entry, Event, Input, Interval, Job, JobId, Member, NodeChange,
    Observation, Presence, Record, Report, Request, Span, Time, laws,
};

pub(crate) const SEED: u64 = 7;

pub(crate) struct Story {
    pub(crate) job: Job,
    pub(crate) now: Time,
    pub(crate) log: Vec<Entry>,
    /// Every report that ever came.
    pub(crate) delivered: Vec<Report>,
    reports: u32,
    spec: JobSpec,
    refused: Option<String>,
    changed: bool,
    zones: std::collections::BTreeMap<String, String>,
    started: Vec<String>,
}

type Line = Result<(), String>;

impl Story {
    pub(crate) fn new() -> Self {
        let id: JobId = "web".parse().unwrap();
        let spec = JobSpec {
            id: id.clone(),
            job_type: JobType::Service,
            selector: Selector::default(),
            placement: Placement::Every,
            lost_after: Span::from_secs(300),
            rollout: RolloutSpec::default(),
            workload: serde_json::Map::new(),
        };
        Self {
            job: Job::new(id, SEED),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            log: Vec::new(),
            delivered: Vec::new(),
            reports: 0,
            spec,
            refused: None,
            changed: false,
            zones: std::collections::BTreeMap::new(),
            started: Vec::new(),
        }
    }

    /// Plays every line; the error names the line that did not hold.
    pub(crate) fn play(&mut self, text: &str) -> Line {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            // `#1` is a target, `# …` a remark: a remark has a space behind its mark.
            let line = remark_free(text.lines().nth(number - 1).unwrap_or(line));
            if line.is_empty() {
                continue;
            }
            self.line(line).map_err(|why| {
                let message = self
                    .job
                    .deployment()
                    .map(|d| d.status.message)
                    .unwrap_or_default();
                format!("line {number}: {line}\n  {why}\n  message: {message}")
            })?;
            self.check()
                .map_err(|why| format!("after line {number}: {line}\n  broken: {why}"))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Line {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "expect" {
            return self.expect(rest.trim());
        }
        self.refused = None;
        let before = self.job.seq();
        self.started.clear();
        let done = match word {
            "nodes" => self.nodes(rest, Presence::Ready),
            "deploy" => self.deploy(rest),
            "pass" => {
                self.now = self.now.after(span(rest)?);
                self.step(Input::Tick)
            }
            "clock" => {
                let (way, by) = rest.split_once(' ').ok_or("clock back|forward SPAN")?;
                let by = span(by)?.as_millis();
                let now = self.now.as_millis();
                self.now = Time::from_millis(if way == "back" { now - by } else { now + by });
                self.step(Input::Tick)
            }
            "away" => {
                let by = span(rest)?;
                self.now = self.now.after(by);
                self.step(Input::Absent {
                    millis: by.as_millis(),
                })
            }
            "restart-driver" => self.restart_driver(),
            "promote" => self.command(Command::Promote(self.id()?), rest),
            "pause" => self.command(Command::Pause(self.id()?), rest),
            "resume" => self.command(Command::Resume(self.id()?), rest),
            "cancel" => self.command(Command::Cancel(self.id()?), rest),
            "fail" => {
                let deployment = self.id()?;
                self.command(
                    Command::Fail {
                        deployment,
                        reason: rest.to_owned(),
                    },
                    "",
                )
            }
            "restart" => self.command(Command::Restart, rest),
            "stop" => self.command(Command::Stop, rest),
            "rollback" => {
                let to = if rest.is_empty() {
                    None
                } else {
                    Some(version(rest)?)
                };
                self.command(Command::RollBack { to }, "")
            }
            "scale" => {
                let replicas = rest.parse().map_err(|_| "scale N")?;
                self.command(Command::Scale { replicas }, "")
            }
            _ => self.about_nodes(line),
        };
        self.changed = self.job.seq() != before;
        done
    }

    /// `nodes n1..n6 zone=a`: they join, or are back.
    fn nodes(&mut self, rest: &str, status: Presence) -> Line {
        let mut names = Vec::new();
        let mut zone = String::new();
        for word in rest.split_whitespace() {
            match word.split_once('=') {
                Some(("zone", value)) => zone = value.to_owned(),
                Some(_) => return Err(format!("unknown word {word}")),
                None => names.extend(range(word)?),
            }
        }
        let mut changes = Vec::new();
        for name in names {
            let zone = if zone.is_empty() {
                self.zones.get(&name).cloned().unwrap_or_default()
            } else {
                zone.clone()
            };
            self.zones.insert(name.clone(), zone.clone());
            changes.push(NodeChange::Seen(Member {
                zone,
                status,
                ..Member::new(name)
            }));
        }
        self.step(Input::Nodes(&changes))
    }

    fn deploy(&mut self, rest: &str) -> Line {
        let request = self.registration(rest)?;
        self.step(Input::Command(request))
    }

    /// `v2 canary 2 waves=3 deadline=5m …`: registers a version that differs from the others by its name.
    pub(crate) fn registration(&self, rest: &str) -> Result<Request, String> {
        let mut words = rest.split_whitespace().peekable();
        let name = words.next().ok_or("deploy NAME …")?;
        let mut spec = self.spec.clone();
        spec.workload.insert("name".to_owned(), name.into());
        let mut rollout = RolloutSpec::default();
        let mut health = HealthCheck {
            deadline: Span::from_secs(300),
            min_healthy_time: Span::from_secs(30),
            max_error_rate: 0.1,
            interval: Span::from_secs(10),
            failure_threshold: 3,
            min_samples: 10,
        };
        let mut strategy = "immediate";
        let mut canaries = Canaries::Count(1);
        let mut auto_promote = false;
        let mut request = Request::from(Command::Restart);
        let mut again = false;
        let mut members = None;
        while let Some(word) = words.next() {
            let number = |text: &str| {
                text.trim_end_matches('%')
                    .parse::<u32>()
                    .map_err(|e| format!("{text}: {e}"))
            };
            match word.split_once('=') {
                None => match word {
                    "immediate" | "rolling" => {
                        strategy = word;
                        if let Some(count) = words.next_if(|w| w.parse::<u32>().is_ok()) {
                            rollout.max_parallel = number(count)?;
                        }
                    }
                    "canary" => {
                        strategy = word;
                        let count = words.next().ok_or("canary N or N%")?;
                        canaries = if count.ends_with('%') {
                            Canaries::Percent(number(count)?)
                        } else {
                            Canaries::Count(number(count)?)
                        };
                    }
                    "auto_promote" => auto_promote = true,
                    "no_auto_rollback" => rollout.no_auto_rollback = true,
                    "again" => again = true,
                    "batch" => spec.job_type = JobType::Batch,
                    _ => return Err(format!("unknown word {word}")),
                },
                Some((key, value)) => match key {
                    "waves" => rollout.max_parallel = number(value)?,
                    "max_failed" => rollout.max_failed_nodes = number(value)?,
                    "max_failed_percent" => {
                        rollout.max_failed_nodes_percent = value.parse().map_err(|_| "a number")?;
                    }
                    "on_failure" => {
                        rollout.on_failure = match value {
                            "rollback" => OnFailure::Rollback,
                            "pause" => OnFailure::Pause,
                            "fail" => OnFailure::Fail,
                            _ => return Err("rollback, pause or fail".to_owned()),
                        }
                    }
                    "spread" => rollout.spread = Some(value.to_owned()),
                    "deadline" => health.deadline = span(value)?,
                    "min_healthy" => health.min_healthy_time = span(value)?,
                    "threshold" => health.failure_threshold = number(value)? as u8,
                    "error_rate" => {
                        health.max_error_rate = value.parse().map_err(|_| "a number")?
                    }
                    "min_samples" => health.min_samples = number(value)?,
                    "lost_after" => spec.lost_after = span(value)?,
                    "replicas" => {
                        spec.placement = Placement::Replicas {
                            count: number(value)?,
                            distinct: false,
                        }
                    }
                    "distinct" => {
                        spec.placement = Placement::Replicas {
                            count: number(value)?,
                            distinct: true,
                        }
                    }
                    "selector" => spec.selector = value.parse().map_err(|e| format!("{e}"))?,
                    "on" => {
                        let mut list = Vec::new();
                        for part in value.split(',') {
                            list.extend(range(part)?);
                        }
                        members = Some(list.into_iter().map(Member::new).collect());
                    }
                    "expected" => request.expected = Some(u64::from(number(value)?)),
                    "key" => request.key = Some(value.to_owned()),
                    _ => return Err(format!("unknown word {word}")),
                },
            }
        }
        rollout.strategy = match strategy {
            "rolling" => Strategy::Rolling {
                health_check: health,
            },
            "canary" => Strategy::Canary {
                health_check: health,
                canaries,
                auto_promote,
            },
            _ => Strategy::Immediate { health_check: None },
        };
        spec.rollout = rollout;
        let command = Command::Register {
            spec: Box::new(spec),
            members,
            again,
        };
        Ok(Request { command, ..request })
    }

    fn command(&mut self, command: Command, rest: &str) -> Line {
        let mut request = Request::from(command);
        for word in rest.split_whitespace() {
            match word.split_once('=') {
                Some(("key", value)) => request.key = Some(value.to_owned()),
                Some(("expected", value)) => request.expected = value.parse().ok(),
                _ => return Err(format!("unknown word {word}")),
            }
        }
        self.step(Input::Command(request))
    }

    /// `n1 n2 #3 healthy`, `wave stays healthy 30s`, `n1 lost`, …
    fn about_nodes(&mut self, line: &str) -> Line {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut names = Vec::new();
        let mut at = 0;
        while at < words.len() {
            match self.subject(words[at]) {
                Some(more) => names.extend(more?),
                None => break,
            }
            at += 1;
        }
        if names.is_empty()
            && !words
                .first()
                .is_some_and(|w| matches!(*w, "wave" | "everyone" | "nobody"))
        {
            return Err(format!("who is {:?}?", words.first()));
        }
        let rest = words[at..].join(" ");
        let (verb, more) = rest.split_once(' ').unwrap_or((&rest, ""));
        let observation = match verb {
            "healthy" => Observation::Interval(Interval::PASSING),
            "unhealthy" => Observation::Interval(Interval::FAILING),
            "silent-checks" => Observation::Interval(Interval {
                checks: None,
                requests: None,
            }),
            "counts" => {
                let (errors, requests) = more.split_once(" of ").ok_or("counts E of R")?;
                let parse = |t: &str| t.parse::<u32>().map_err(|e| e.to_string());
                let requests = Some((parse(requests)?, parse(errors)?));
                Observation::Interval(Interval {
                    checks: Some(true),
                    requests,
                })
            }
            "started" => Observation::Started,
            "stopped" => Observation::Stopped,
            "restarted" => Observation::Restarted,
            "exits" => Observation::Exited {
                code: more.parse().map_err(|_| "exits CODE")?,
            },
            "cannot" => Observation::CannotStart {
                detail: more.trim_start_matches("start ").to_owned(),
            },
            "stays" | "stay" => {
                let time = more.trim_start_matches("healthy").trim();
                self.report(&names, &Observation::Interval(Interval::PASSING))?;
                self.now = self
                    .now
                    .after(span(if time.is_empty() { "30s" } else { time })?);
                self.step(Input::Tick)?;
                return self.report(&names, &Observation::Interval(Interval::PASSING));
            }
            "lost" => return self.became(&names, Presence::Disconnected),
            "down" => return self.became(&names, Presence::Down),
            "draining" => return self.became(&names, Presence::Draining),
            "gone" => return self.became(&names, Presence::Gone),
            "unmatched" => return self.became(&names, Presence::Unmatched),
            "joins" | "join" | "back" => {
                return self.nodes(&format!("{} {more}", names.join(" ")), Presence::Ready);
            }
            _ => return Err(format!("unknown verb {verb:?}")),
        };
        self.report(&names, &observation)
    }

    fn became(&mut self, names: &[String], status: Presence) -> Line {
        let changes: Vec<_> = names
            .iter()
            .map(|name| NodeChange::Became {
                name: name.clone(),
                status,
            })
            .collect();
        self.step(Input::Nodes(&changes))
    }

    /// All targets on these nodes say the same, about the assignment that they have.
    fn report(&mut self, names: &[String], what: &Observation) -> Line {
        let mut reports = Vec::new();
        for name in names {
            for assignment in self.job.desired(name) {
                let Some(target) = assignment.target else {
                    continue;
                };
                self.reports += 1;
                let (generation, number) = (assignment.generation, self.reports);
                reports.push(Report {
                    target,
                    generation,
                    number,
                    what: what.clone(),
                });
            }
            // What was told to stop is desired no more, and still has to say that it has.
            if *what == Observation::Stopped {
                for assignment in self.job.outstanding().filter(|a| a.node == name) {
                    self.reports += 1;
                    let target = assignment.target.ok_or("it is in flight")?;
                    let (generation, number) = (assignment.generation, self.reports);
                    reports.push(Report {
                        target,
                        generation,
                        number,
                        what: what.clone(),
                    });
                }
            }
        }
        self.delivered.extend_from_slice(&reports);
        self.step(Input::Reports(&reports))
    }

    /// `n1`, `n1..n3`, `#2` (the second in turn), `wave` (all in flight), `everyone`.
    fn subject(&self, word: &str) -> Option<Result<Vec<String>, String>> {
        if let Some(turn) = word.strip_prefix('#') {
            let turns: Result<Vec<usize>, _> = match turn.split_once("..#") {
                Some((a, b)) => a
                    .parse()
                    .and_then(|a| b.parse().map(|b: usize| (a..=b).collect())),
                None => turn.parse().map(|t| vec![t]),
            };
            let turns = turns.ok()?;
            let all: Vec<String> = self.job.targets().map(|t| t.node).collect();
            let pick = |t: usize| {
                all.get(t - 1)
                    .cloned()
                    .ok_or_else(|| format!("there is no target #{t}"))
            };
            return Some(turns.into_iter().map(pick).collect());
        }
        match word {
            "wave" => {
                let in_flight = self
                    .job
                    .targets()
                    .filter(|t| t.state.is_in_flight())
                    .map(|t| t.node);
                let mut names: Vec<String> = in_flight.collect();
                names.dedup();
                Some(Ok(names))
            }
            "everyone" => Some(Ok(self.zones.keys().cloned().collect())),
            _ => {
                let known = range(word).ok()?;
                (known.len() > 1
                    || self.zones.contains_key(word)
                    || word.starts_with('n')
                        && word.len() > 1
                        && word[1..].bytes().all(|b| b.is_ascii_digit()))
                .then_some(Ok(known))
            }
        }
    }

    fn expect(&mut self, what: &str) -> Line {
        let record = || self.record();
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        let same = |found: String, wanted: &str| {
            if found == wanted {
                Ok(())
            } else {
                Err(format!("found {found:?}, wanted {wanted:?}"))
            }
        };
        match word {
            "pending" | "in_progress" | "paused" | "completed" | "failed" | "canceled"
                if rest.is_empty() =>
            {
                let state = serde_json::to_value(record()?.status.state).unwrap();
                same(state.as_str().unwrap().to_owned(), word)
            }
            "awaiting" => same(
                record()?
                    .status
                    .waiting_on
                    .unwrap_or_else(|| "nothing".to_owned()),
                rest,
            ),
            "message" => {
                let message = record()?.status.message;
                if message.contains(rest) {
                    Ok(())
                } else {
                    Err(format!("the message is {message:?}"))
                }
            }
            "refused" => match &self.refused {
                Some(why) if why.contains(rest) => Ok(()),
                Some(why) => Err(format!("refused, but: {why}")),
                None => Err("it was taken".to_owned()),
            },
            "nothing" => match (&self.refused, self.changed) {
                (None, false) => Ok(()),
                (why, changed) => Err(format!("changed: {changed}, refused: {why:?}")),
            },
            "wave" => same(record()?.status.current_wave.to_string(), rest),
            "type" => same(
                serde_json::to_value(record()?.kind)
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .to_owned(),
                rest,
            ),
            "from" => {
                let record = record()?;
                same(
                    format!("v{} to v{}", record.from_version, record.to_version),
                    rest,
                )
            }
            "canaries" => {
                let mut found = record()?.status.canary_nodes;
                found.sort();
                let mut wanted = self.names(rest)?;
                wanted.sort();
                same(found.join(" "), &wanted.join(" "))
            }
            "counts" => {
                let status = record()?.status;
                for part in rest.split(',') {
                    let (name, count) = part.trim().split_once(' ').ok_or("counts NAME N, …")?;
                    let found = match name {
                        "total" => status.total_nodes,
                        "pending" => status.pending_nodes,
                        "in_flight" => status.in_flight_nodes,
                        "updated" => status.updated_nodes,
                        "failed" => status.failed_nodes,
                        "skipped" => status.skipped_nodes,
                        _ => return Err(format!("unknown count {name}")),
                    };
                    same(format!("{name} {found}"), &format!("{name} {count}"))?;
                }
                Ok(())
            }
            "started" => {
                let mut wanted = self.names(rest)?;
                wanted.sort();
                let mut found = self.started.clone();
                found.sort();
                same(found.join(" "), &wanted.join(" "))
            }
            "deadline" => {
                let left = record()?
                    .status
                    .health_check_deadline
                    .ok_or("there is no deadline")?;
                same(
                    Span::from_millis(left.as_millis().saturating_sub(self.now.as_millis()))
                        .to_string(),
                    rest,
                )
            }
            "no" => match (rest, self.job.wake()) {
                ("wake-up", None) => Ok(()),
                ("rollback", _) => same(record()?.rolled_back_by.map_or(0, |_| 1).to_string(), "0"),
                (_, wake) => Err(format!("wakes at {wake:?}")),
            },
            "linked" => {
                let now = record()?;
                let failed = now
                    .rollback_of
                    .and_then(|id| self.job.record(id))
                    .ok_or("it takes nothing back")?;
                same(
                    format!("{:?}", failed.rolled_back_by),
                    &format!("{:?}", Some(now.id)),
                )
            }
            "stable" => {
                let stable: Vec<String> = self
                    .job
                    .versions()
                    .filter(|v| v.stable)
                    .map(|v| format!("v{}", v.number))
                    .collect();
                same(stable.join(" "), rest)
            }
            _ => self.expect_nodes(what),
        }
    }

    /// `expect n1 #2 updated`, `expect n1..n3 run v2`, `expect n1 runs nothing`.
    fn expect_nodes(&self, what: &str) -> Line {
        let words: Vec<&str> = what.split_whitespace().collect();
        let at = words
            .iter()
            .position(|w| self.subject(w).is_none())
            .ok_or("what about them?")?;
        let names = self.names(&words[..at].join(" "))?;
        if names.is_empty() {
            return Err(format!("cannot expect {what:?}"));
        }
        match words[at] {
            "run" | "runs" => {
                for name in names {
                    let mut found: Vec<String> = self
                        .job
                        .desired(&name)
                        .iter()
                        .map(|a| format!("v{}", a.version))
                        .collect();
                    if found.is_empty() {
                        found.push("nothing".to_owned());
                    }
                    let wanted = words[at + 1..].join(" ");
                    if found.join(" ") != wanted {
                        return Err(format!("{name} runs {}, not {wanted}", found.join(" ")));
                    }
                }
                Ok(())
            }
            "because" => {
                let why = words[at + 1..].join(" ");
                for name in names {
                    let target = self
                        .job
                        .targets()
                        .find(|t| t.node == name)
                        .ok_or_else(|| format!("{name} is no target"))?;
                    let reason = target.reason.unwrap_or_default();
                    if !reason.contains(&why) {
                        return Err(format!("{name} failed because {reason:?}"));
                    }
                }
                Ok(())
            }
            state => {
                for name in names {
                    let target = self
                        .job
                        .targets()
                        .find(|t| t.node == name)
                        .ok_or_else(|| format!("{name} is no target"))?;
                    let found = serde_json::to_value(target.state).unwrap();
                    if found.as_str() != Some(state) {
                        return Err(format!("{name} is {found}, not {state}"));
                    }
                }
                Ok(())
            }
        }
    }

    fn names(&self, words: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for word in words.split_whitespace() {
            names.extend(
                self.subject(word)
                    .ok_or_else(|| format!("who is {word:?}?"))??,
            );
        }
        Ok(names)
    }

    fn record(&self) -> Result<Record, String> {
        self.job
            .deployment()
            .ok_or_else(|| "there is no deployment".to_owned())
    }

    fn id(&self) -> Result<DeploymentId, String> {
        self.record().map(|r| r.id)
    }

    pub(crate) fn step(&mut self, input: Input<'_>) -> Line {
        let before = self.job.clone();
        match self.job.step(self.now, input) {
            Ok(step) => {
                let (entries, sealed) = step.split();
                laws::check_step(&before, &entries, &self.job).map_err(|e| e.to_string())?;
                self.log.extend(entries);
                let after = sealed.committed();
                for effect in after.effects {
                    if let orchestrator_core::Effect::Assign { slots, .. } = effect {
                        self.started
                            .extend(slots.iter().map(|s| self.job.assignment(s).node.to_owned()));
                    }
                }
                Ok(())
            }
            Err(why) if self.job.seq() == before.seq() => {
                self.refused = Some(why.to_string());
                Ok(())
            }
            Err(why) => Err(format!("refused, and changed all the same: {why}")),
        }
    }

    /// Rebuilt from the log, the job is the same to the byte.
    fn restart_driver(&mut self) -> Line {
        let again = Job::recover(self.job.id().clone(), SEED, self.log.clone())
            .map_err(|e| e.to_string())?;
        if again.snapshot() != self.job.snapshot() {
            return Err("the log does not rebuild the state".to_owned());
        }
        self.job = Job::from_snapshot(&again.snapshot()).map_err(|e| e.to_string())?;
        Ok(())
    }

    fn check(&mut self) -> Line {
        let seq = self.job.seq();
        if seq != self.log.len() as u64 {
            return Err(format!(
                "the log has {} entries, the job is at {seq}",
                self.log.len()
            ));
        }
        self.restart_driver()?;
        Ok(())
    }

    /// The nodes of every wave of the first deployment that began after this much of the log.
    pub(crate) fn waves_since(&self, from: usize) -> Vec<Vec<String>> {
        let began = |e: &&Entry| e.event.kind() == "started";
        let Some(number) = self.log[from..].iter().find(began).and_then(|e| e.of) else {
            return Vec::new();
        };
        let own = self.log[from..]
            .iter()
            .filter(|e| e.of.is_some_and(|of| of.deployment == number.deployment));
        own.filter_map(|e| match &e.event {
            Event::Dispatched { targets, .. } => Some(
                targets
                    .iter()
                    .map(|t| self.job.target_name(t).to_owned())
                    .collect(),
            ),
            _ => None,
        })
        .collect()
    }
}

fn remark_free(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with("# ") || line == "#" {
        return "";
    }
    line.split(" # ").next().unwrap_or("").trim()
}

fn span(text: &str) -> Result<Span, String> {
    text.trim()
        .parse()
        .map_err(|e| format!("{text:?} is no span: {e}"))
}

fn version(text: &str) -> Result<u32, String> {
    text.trim_start_matches('v')
        .parse()
        .map_err(|_| format!("{text:?} is no version"))
}

/// `n1..n3` is n1, n2, n3.
fn range(word: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = word.split_once("..") else {
        return Ok(vec![word.to_owned()]);
    };
    let cut = |name: &str| {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        name[digits..]
            .parse::<u32>()
            .map(|n| (name[..digits].to_owned(), n))
            .map_err(|e| format!("{name}: {e}"))
    };
    let ((prefix, first), (_, last)) = (cut(first)?, cut(last)?);
    Ok((first..=last).map(|n| format!("{prefix}{n}")).collect())
}
