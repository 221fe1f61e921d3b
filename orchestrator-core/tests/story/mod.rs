//! Plays a story written in plain words against a job, and checks after every line what must always
//! hold. `tests/scripts/README.md` lists the words.

#![allow(dead_code, reason = "each test binary uses its part")]

mod command;
mod expect;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::{
    Answer, Done, Effect, Entry, Event, Ignored, Input, Interval, Job, JobId, Member, Narrator,
    NodeChange, Observation, Plan, Presence, PutAside, Report, Request, Sentence, TargetState,
    TargetView, Time,
};

use orchestrator_core::spec::{JobType, Placement};
use words::{options, range, remark_free, span};

pub(crate) const SEED: u64 = 7;
/// More nodes than there are in any story.
const NAMES_MAX: usize = 100_000;

pub(crate) struct Story {
    pub(crate) job: Job,
    pub(crate) now: Time,
    pub(crate) log: Vec<Entry>,
    /// What each entry of the log says.
    pub(crate) words: Vec<Sentence>,
    narrator: Narrator,
    /// Every report that ever came.
    pub(crate) delivered: Vec<Report>,
    /// Print every line and what came of it.
    pub(crate) aloud: bool,
    reports: u32,
    zones: BTreeMap<String, String>,
    /// For each node, its assignments so far, by target and generation.
    given: BTreeMap<String, Vec<(u32, u64)>>,
    /// For each node, what it said last.
    said: BTreeMap<String, Vec<Report>>,
    came: Came,
}

/// What came of the last line.
#[derive(Default)]
struct Came {
    refused: Option<String>,
    changed: bool,
    /// Who was told to run something.
    started: Vec<String>,
    ignored: Vec<Ignored>,
    reports: usize,
    answer: Option<Answer>,
    plan: Option<Plan>,
}

/// Which assignment a report speaks of, and when it comes.
#[derive(Clone, Copy)]
enum Sent {
    /// The present one, in order.
    Now,
    /// An earlier one.
    Late,
    /// The present one, and the report that was written after it is there already.
    Overtaken,
}

type Line = Result<(), String>;

impl Story {
    pub(crate) fn new() -> Self {
        let id: JobId = "web".parse().unwrap();
        Self {
            narrator: Narrator::new(Job::new(id.clone(), SEED), NAMES_MAX),
            job: Job::new(id, SEED),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            log: Vec::new(),
            words: Vec::new(),
            delivered: Vec::new(),
            aloud: false,
            reports: 0,
            zones: BTreeMap::new(),
            given: BTreeMap::new(),
            said: BTreeMap::new(),
            came: Came::default(),
        }
    }

    /// Plays every line; the error names the line that did not hold.
    pub(crate) fn play(&mut self, text: &str) -> Line {
        for (number, line) in (1..).zip(text.lines().map(remark_free)) {
            if line.is_empty() {
                continue;
            }
            let held = self.line(line);
            let message = self.message();
            if self.aloud {
                println!("{number:4}  {line:<50}  {message}");
            }
            held.map_err(|why| format!("line {number}: {line}\n  {why}\n  message: {message}"))?;
            self.restart_driver()
                .map_err(|why| format!("after line {number}: {line}\n  broken: {why}"))?;
        }
        Ok(())
    }

    /// What an operator reads now.
    fn message(&self) -> String {
        match (&self.came.refused, self.job.deployment()) {
            (Some(why), _) => format!("refused: {why}"),
            (None, Some(record)) => record.status.message,
            (None, None) => String::new(),
        }
    }

    fn line(&mut self, line: &str) -> Line {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        if word == "expect" {
            return self.expect(rest);
        }
        self.came = Came::default();
        let before = self.job.seq();
        let done = match word {
            "nodes" => self.nodes(rest),
            "members" => self.members(rest),
            "pass" => {
                self.now = self.now.after(span(rest)?);
                self.step(Input::Tick)
            }
            "clock" => {
                let (way, by) = rest.split_once(' ').ok_or("clock back|forward SPAN")?;
                let (now, by) = (self.now.as_millis(), span(by)?.as_millis());
                self.now = Time::from_millis(match way {
                    "back" => now - by,
                    "forward" => now + by,
                    _ => return Err("clock back|forward SPAN".to_owned()),
                });
                self.step(Input::Tick)
            }
            "away" => {
                let by = span(rest)?;
                self.now = self.now.after(by);
                self.rebuild()?;
                self.step(Input::Absent {
                    millis: by.as_millis(),
                })
            }
            "restart-driver" if rest.is_empty() => self.restart_driver(),
            "restart-driver" => {
                self.rebuild()?;
                self.now = self.now.after(span(rest)?);
                self.step(Input::Tick)
            }
            "plan" => self.plan(rest),
            "again" => self.again(rest),
            _ => match self.command(word, rest) {
                Some(request) => request.and_then(|request| self.order(request)),
                None => self.about_nodes(line),
            },
        };
        self.changed(before);
        done
    }

    fn changed(&mut self, before: u64) {
        self.came.changed = self.job.seq() != before;
    }

    /// A spec that cannot be read is refused as a command that does not fit is.
    fn order(&mut self, request: Result<Request, String>) -> Line {
        match request {
            Ok(request) => self.step(Input::Command(request)),
            Err(why) => {
                self.came.refused = Some(why);
                Ok(())
            }
        }
    }

    fn plan(&mut self, line: &str) -> Line {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let request = self.command(word, rest).ok_or("plan COMMAND …")??;
        match request.and_then(|r| self.job.plan(self.now, r).map_err(|e| e.to_string())) {
            Ok(plan) => self.came.plan = Some(plan),
            Err(why) => self.came.refused = Some(why),
        }
        Ok(())
    }

    /// `nodes n1..n6 zone=a load=2`: they are ready.
    fn nodes(&mut self, rest: &str) -> Line {
        let (names, given) = options(rest, &["zone", "load"])?;
        let load = given.get("load").map_or(Ok(0), |load| load.parse());
        let load = load.map_err(|e| format!("load: {e}"))?;
        let mut changes = Vec::new();
        for name in names.split_whitespace() {
            for name in range(name)? {
                let zone = self.zones.entry(name.clone()).or_default();
                if let Some(given) = given.get("zone") {
                    zone.clone_from(given);
                }
                changes.push(NodeChange::Seen(Member {
                    zone: zone.clone(),
                    load,
                    ..Member::new(name)
                }));
            }
        }
        self.step(Input::Nodes(&changes))
    }

    /// `members n1..n3`: these match the selector that is in force again, and no others.
    fn members(&mut self, rest: &str) -> Line {
        let members: Vec<_> = self
            .names(rest)?
            .into_iter()
            .map(|name| {
                let status = self
                    .job
                    .presence(&name)
                    .filter(|&p| p != Presence::Unmatched);
                let mut member = Member::new(name);
                member.zone = self.zones.get(&member.name).cloned().unwrap_or_default();
                member.status = status.unwrap_or_default();
                member
            })
            .collect();
        self.step(Input::Members(&members))
    }

    /// `n1 n2 #3 healthy`, `wave stays healthy 30s`, `n1 lost`, `late n1 healthy`, …
    fn about_nodes(&mut self, line: &str) -> Line {
        let (sent, line) = match line.split_once(' ') {
            Some(("late", rest)) => (Sent::Late, rest),
            Some(("overtaken", rest)) => (Sent::Overtaken, rest),
            _ => (Sent::Now, line),
        };
        let (names, rest) = self.split_names(line)?;
        let (verb, more) = rest.split_once(' ').unwrap_or((&rest, ""));
        let status = match verb {
            "joins" | "join" | "back" => {
                return self.nodes(&format!("{} {more}", names.join(" ")));
            }
            "lost" => Some(Presence::Disconnected),
            "down" => Some(Presence::Down),
            "draining" => Some(Presence::Draining),
            "gone" => Some(Presence::Gone),
            "unmatched" => Some(Presence::Unmatched),
            _ => None,
        };
        if let Some(status) = status {
            return self.became(&names, status);
        }
        if matches!(verb, "stay" | "stays") {
            let time = more.strip_prefix("healthy").ok_or("stays healthy SPAN")?;
            let good = Observation::Interval(Interval::PASSING);
            self.report(&names, &good, sent)?;
            self.now = self.now.after(span(time)?);
            self.step(Input::Tick)?;
            // For some the first one may have been enough.
            return match names.iter().any(|name| !self.present(name).is_empty()) {
                true => self.report(&names, &good, sent),
                false => Ok(()),
            };
        }
        self.report(&names, &words::observation(verb, more)?, sent)
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

    /// All executions on these nodes that somebody waits to hear of say the same.
    fn report(&mut self, names: &[String], what: &Observation, sent: Sent) -> Line {
        let mut reports = Vec::new();
        for name in names {
            let present = self.present(name);
            let about = match sent {
                Sent::Now | Sent::Overtaken => present,
                Sent::Late => {
                    let earlier = self.given.get(name).into_iter().flatten().rev();
                    earlier
                        .filter(|a| !present.contains(a))
                        .take(1)
                        .copied()
                        .collect()
                }
            };
            if about.is_empty() {
                continue;
            }
            // Every second number stays free for what is overtaken on its way.
            self.reports += 2;
            let number = self.reports - 1;
            let number = match sent {
                Sent::Now | Sent::Late => number,
                Sent::Overtaken => {
                    let last = self.said.get(name).and_then(|said| said.last());
                    last.ok_or("it has said nothing yet")?.number - 1
                }
            };
            let said = about.into_iter().map(|(target, generation)| Report {
                target,
                generation,
                number,
                what: what.clone(),
            });
            let said: Vec<_> = said.collect();
            reports.extend(said.iter().cloned());
            if matches!(sent, Sent::Now) {
                self.said.insert(name.clone(), said);
            }
        }
        if reports.is_empty() && *what == (Observation::Exited { code: 0 }) {
            let desired = names.iter().flat_map(|name| self.job.desired(name));
            let done = desired.filter(|a| a.target.is_none()).map(|a| Done {
                slot: a.slot,
                generation: a.generation,
            });
            let done: Vec<Done> = done.collect();
            if !done.is_empty() {
                return self.step(Input::Done(&done));
            }
        }
        if reports.is_empty() {
            return Err("nobody waits for that: it cannot be said now".to_owned());
        }
        self.step(Input::Reports(&reports))
    }

    /// The assignments of a node that somebody waits to hear of, by target and generation.
    fn present(&self, name: &str) -> Vec<(u32, u64)> {
        // What was told to stop is desired no more, and still has to say that it has.
        let stopping = self.job.outstanding().filter(|a| a.version == 0);
        let stopping = stopping.filter(|a| a.node == name);
        let all = self.job.desired(name).into_iter().chain(stopping);
        all.filter_map(|a| a.target.map(|target| (target, a.generation)))
            .collect()
    }

    /// `again n1`: what it said last comes a second time.
    fn again(&mut self, who: &str) -> Line {
        let mut reports = Vec::new();
        for name in self.names(who)? {
            let said = self.said.get(&name);
            reports.extend(said.ok_or("it has said nothing yet")?.iter().cloned());
        }
        self.step(Input::Reports(&reports))
    }

    /// The nodes that a line begins with, and the rest of it.
    fn split_names(&self, line: &str) -> Result<(Vec<String>, String), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let end = words.iter().position(|w| self.subject(w).is_none());
        let end = end.ok_or("what about them?")?;
        if end == 0 {
            return Err(format!("unknown word {:?}", words[0]));
        }
        Ok((self.names(&words[..end].join(" "))?, words[end..].join(" ")))
    }

    fn names(&self, words: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for word in words.split_whitespace() {
            let some = self.subject(word);
            names.extend(some.ok_or_else(|| format!("who is {word:?}?"))??);
        }
        Ok(names)
    }

    /// `n1`, `n1..n3`, `#2` and `#2..#4` (by turn), `wave` (all in flight), `everyone`, `nobody`.
    fn subject(&self, word: &str) -> Option<Result<Vec<String>, String>> {
        if word.starts_with('#') {
            let turns = range(word).ok()?;
            let all: Vec<String> = self.job.targets().map(|t| t.node).collect();
            let pick = |turn: &String| {
                let turn = turn[1..].parse::<usize>().ok()?;
                all.get(turn.checked_sub(1)?).cloned()
            };
            let picked: Option<Vec<_>> = turns.iter().map(pick).collect();
            return Some(picked.ok_or_else(|| format!("there is no target {word}")));
        }
        match word {
            "wave" => {
                let in_flight = self.job.targets().filter(|t| t.state.is_in_flight());
                let mut names: Vec<String> = in_flight.map(|t| t.node).collect();
                names.sort();
                names.dedup();
                Some(Ok(names))
            }
            "everyone" => Some(Ok(self.zones.keys().cloned().collect())),
            "nobody" => Some(Ok(Vec::new())),
            _ => {
                let digits = word.trim_start_matches(|c: char| c.is_ascii_lowercase());
                let node = digits.len() + 1 == word.len() && digits.parse::<u32>().is_ok();
                (node || word.contains("..")).then(|| range(word))
            }
        }
    }

    pub(crate) fn step(&mut self, input: Input<'_>) -> Line {
        let reports = match input {
            Input::Reports(reports) => reports.to_vec(),
            _ => Vec::new(),
        };
        self.came.reports += reports.len();
        let before = self.job.clone();
        let (step, words) = match self.job.step_in_words(self.now, input, NAMES_MAX) {
            Ok(made) => made,
            Err(why) if self.job.snapshot() == before.snapshot() => {
                self.came.refused = Some(why.to_string());
                return Ok(());
            }
            Err(why) => return Err(format!("refused, and changed all the same: {why}")),
        };
        #[cfg(feature = "sim")]
        orchestrator_core::laws::check_step(&before, step.entries(), &self.job)
            .map_err(|e| e.to_string())?;
        for (entry, words) in step.entries().iter().zip(&words) {
            if self.narrator.tell(entry).as_ref() != Ok(words) {
                return Err(format!("the log does not say {words} of {entry:?}"));
            }
        }
        if step.entries().len() != words.len() {
            return Err("some entries are without words".to_owned());
        }
        self.words.extend(words);
        let log = &mut self.log;
        let after = step.persist(|entries| {
            log.extend(entries);
            Ok::<_, String>(())
        })?;
        self.came
            .ignored
            .extend(after.ignored.iter().map(|&(_, why)| why));
        // What is not believed of a silent node has not been heard: said again when it is back, it is news.
        let unheard = |position: usize| {
            let mut ignored = after.ignored.iter();
            ignored.any(|&(at, why)| at as usize == position && why == Ignored::Lost)
        };
        let heard = reports.into_iter().enumerate();
        self.delivered
            .extend(heard.filter(|&(at, _)| !unheard(at)).map(|(_, r)| r));
        self.came.answer = after.answer;
        self.effects_name_who_has_to_hear(&before, &after.effects)?;
        for effect in after.effects {
            if let Effect::PutAside(aside) = &effect {
                put_aside_as_it_was(&before, &self.job, aside)?;
            }
            let Effect::Assign { slots, .. } = effect else {
                continue;
            };
            for slot in slots.iter() {
                let told = self.job.assignment(slot);
                self.came.started.push(told.node.to_owned());
                let given = self.given.entry(told.node.to_owned()).or_default();
                given.extend(told.target.map(|target| (target, told.generation)));
            }
        }
        Ok(())
    }

    /// Who is there and should run something else than before the step is named in an effect, and nobody else is.
    fn effects_name_who_has_to_hear(&self, before: &Job, effects: &[Effect]) -> Line {
        let runs = |job: &Job, node: &str| -> Vec<_> {
            let desired = job.desired(node);
            desired
                .iter()
                .map(|a| (a.slot, a.version, a.generation))
                .collect()
        };
        // What has done its work is not listed any more, and nobody has to hear of that.
        let now = self.log.iter().rev();
        let mut now = now.take_while(|entry| entry.seq > before.seq());
        let ends = now.any(|entry| entry.event.kind() == "updated");
        let done = |&(slot, version, generation): &(u32, u32, u64)| {
            let told = self.job.assignment(slot);
            let spec = self.job.spec(version);
            let batch = spec.is_some_and(|spec| spec.job_type == JobType::Batch);
            (told.version, told.generation) == (version, generation) || batch && ends
        };
        let there = |node: &&str| self.job.presence(node).is_some();
        let differs = |node: &&str| runs(before, node) != runs(&self.job, node);
        let has_to_hear = |node: &&str| {
            let now = runs(&self.job, node);
            let mut then = runs(before, node);
            then.retain(|run| now.contains(run) || !done(run));
            then != now
        };
        // A silent node can be told nothing: it hears all of it when it is back.
        let silent = |node: &str| {
            let presence = self.job.presence(node);
            matches!(presence, Some(Presence::Disconnected | Presence::Down))
        };
        let everyone = before.nodes().chain(self.job.nodes());
        let changed: BTreeSet<&str> = everyone.filter(there).filter(differs).collect();
        let named: BTreeSet<&str> = effects
            .iter()
            .flat_map(|effect| match effect {
                Effect::Assign { slots, .. } => slots
                    .iter()
                    .map(|s| self.job.assignment(s).node)
                    .collect::<Vec<_>>(),
                Effect::Withdraw { nodes } => nodes.iter().map(|n| self.job.node_name(n)).collect(),
                Effect::MembersNeeded | Effect::PutAside(_) => Vec::new(),
            })
            .collect();
        // Whoever is told to stop once more hears of it, though there is nothing that it should run.
        let waited: BTreeSet<&str> = self.job.outstanding().map(|a| a.node).collect();
        let due = |node: &&str| changed.contains(node) || waited.contains(node);
        let told = |node: &&str| named.contains(node) || silent(node);
        if changed.iter().filter(|&n| has_to_hear(n)).all(told) && named.iter().all(due) {
            return Ok(());
        }
        Err(format!(
            "{changed:?} have to hear of something, {named:?} are told"
        ))
    }

    /// The nodes of every wave of the first deployment that began after this much of the log.
    pub(crate) fn waves_since(&self, from: usize) -> Vec<Vec<String>> {
        let began = |e: &&Entry| e.event.kind() == "started";
        match self.log[from..].iter().find(began).and_then(|e| e.of) {
            Some(first) => self.waves_of(first.deployment, from),
            None => Vec::new(),
        }
    }

    /// The nodes of every wave of a deployment after this much of the log.
    pub(crate) fn waves_of(&self, deployment: u32, from: usize) -> Vec<Vec<String>> {
        let own = |e: &Entry| e.of.is_some_and(|of| of.deployment == deployment);
        let sent = |e: &Entry| matches!(e.event, Event::Dispatched { .. });
        let said = self.log.iter().zip(&self.words).skip(from);
        let waves = said.filter(|(entry, _)| own(entry) && sent(entry));
        waves.map(|(_, words)| words.nodes.names.clone()).collect()
    }

    /// Rebuilt from the log, and from a snapshot, the job is the same to the byte.
    fn rebuild(&mut self) -> Line {
        let again =
            Job::recover(self.job.id().clone(), SEED, &self.log).map_err(|e| e.to_string())?;
        if again.snapshot() != self.job.snapshot() {
            return Err("the log does not rebuild the state".to_owned());
        }
        self.job = Job::from_snapshot(&again.snapshot()).map_err(|e| e.to_string())?;
        Ok(())
    }

    /// It was away for no time at all.
    fn restart_driver(&mut self) -> Line {
        self.rebuild()?;
        let back = self.job.step(self.now, Input::Absent { millis: 0 });
        match back.map(|step| step.entries().is_empty()) {
            Ok(true) => Ok(()),
            _ => Err("that the driver is back leads to something".to_owned()),
        }
    }
}

/// What is put aside is what the deployment's record counts, of the very same targets as before, in their order.
fn put_aside_as_it_was(before: &Job, after: &Job, aside: &PutAside) -> Line {
    let id = aside.deployment();
    let Some(record) = after.record(id) else {
        return Err(format!("{id} is put aside, and its record is gone"));
    };
    let count = |state| aside.targets().filter(|t| t.state == state).count() as u32;
    let status = &record.status;
    let counts = [
        (TargetState::Updated, status.updated_nodes),
        (TargetState::Failed, status.failed_nodes),
        (TargetState::Pending, status.pending_nodes),
        (TargetState::Skipped, status.skipped_nodes),
    ];
    for (state, counted) in counts {
        if count(state) != counted {
            return Err(format!(
                "{counted} {state:?} are counted, {} are put aside",
                count(state)
            ));
        }
    }
    if aside.targets().count() as u32 != status.total_nodes {
        return Err(format!("not all targets of {id} are put aside"));
    }
    let failed = |t: &TargetView| t.reason.is_some() == (t.state == TargetState::Failed);
    if !aside.targets().all(|t| failed(&t)) {
        return Err(format!(
            "{id} is put aside with reasons that are not those of what failed"
        ));
    }
    // One that was over before is put aside as it was; only executions that are placed may have moved meanwhile.
    let over = |job: &Job| job.record(id).is_some_and(|r| r.status.state.is_final());
    let placed = |job: &Job| {
        let placement = job.membership().map(|spec| spec.placement);
        matches!(placement, Some(Placement::Replicas { .. }))
    };
    let moved = placed(before) || placed(after);
    let same = |(a, b): (TargetView, TargetView)| {
        (a.node == b.node || moved) && a.wave == b.wave && a.state == b.state
    };
    let mut seen = before.targets().zip(aside.targets());
    if over(before) && !seen.all(same) {
        return Err(format!("{id} is put aside otherwise than it was"));
    }
    Ok(())
}
