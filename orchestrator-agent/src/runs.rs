//! The runs that a node knows of, each a directory.
//!
//! ```text
//! runs/<namespace>@/<job>@/<slot>.<generation>.<attempt>/
//!   run.json     what it is; written before anything is started, whole or not there
//!   asked        that it was to be told to stop
//!   heard        when that was said
//!   told         that the server knows of this start
//!   taken.json   for which later assignment it goes on
//!   trial.json   how far its version has proved itself since
//!   remarks      what an operator should know of it, one sentence a line
//!   work/        where it runs, if it does not say otherwise
//!   …            the driver's
//! ```
//!
//! No name may hold an `@`, so none climbs out of the directory or is another's.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::plan::{Moment, Trial};
use crate::shim::{self, ENDED, RUN};
use crate::wire::{Document, Job};
use crate::workload::{self, PortRef, Workload};

const KEPT: &str = "run.json";
/// Who holds this in a data directory works there.
pub(crate) const LOCK: &str = "lock";
const REMARKS: &str = "remarks";
const HEARD: &str = "heard";
const TAKEN: &str = "taken.json";
const TRIAL: &str = "trial.json";
/// Between the name of a run's directory and a number, where it was put aside.
const ASIDE: &str = ".broken-";

/// Which execution.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Key {
    /// Whose it is.
    pub job: Job,
    /// Its number within the job.
    pub slot: u32,
}

/// One life of one workload.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RunId {
    /// Of which execution.
    pub key: Key,
    /// Of which assignment.
    pub generation: u64,
    /// From 1.
    pub attempt: u32,
}

/// Which attempt of which assignment.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Attempt {
    /// Which assignment.
    pub generation: u64,
    /// From 1.
    pub number: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { job, slot } = &self.key;
        write!(f, "{job} {slot}.{}.{}", self.generation, self.attempt)
    }
}

/// A run, and all that is needed to start and to stop it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which one.
    pub id: RunId,
    /// The version of its job.
    pub version: u32,
    /// The name of the node.
    pub node: Arc<str>,
    /// So many quick restarts came before it in a row.
    pub row: u32,
    /// Its ports, by name.
    pub ports: BTreeMap<String, u16>,
    /// The job document.
    pub document: Document,
    /// The same, read.
    pub workload: Arc<Workload>,
    /// Where what it brings along is.
    pub artifact: Option<PathBuf>,
    /// Its directory.
    pub dir: PathBuf,
    /// When it was made, since this machine booted or earlier; an earlier program has not kept it.
    pub made: Option<Moment>,
    /// How far its version had proved itself by then.
    pub trial: Trial,
    /// What others know it by who run it. No two runs on this machine have the same, whatever their agents are called.
    pub name: String,
}

/// What is written of it.
#[derive(Deserialize, Serialize)]
struct Kept {
    id: RunId,
    version: u32,
    node: Arc<str>,
    row: u32,
    ports: BTreeMap<String, u16>,
    #[serde(default)]
    artifact: Option<PathBuf>,
    #[serde(default)]
    made_millis: Option<u64>,
    #[serde(default)]
    trial: Trial,
    document: Document,
    /// It stays what it was, also where the data directory is moved.
    #[serde(default)]
    name: Option<String>,
}

impl Run {
    /// Where a check of it looks.
    pub fn port(&self, port: &PortRef) -> Option<u16> {
        match port {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => self.ports.get(name).copied(),
        }
    }

    /// Replaces the words that stand for what the run is.
    pub fn expand(&self, text: &str) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        let mut text = text.to_owned();
        for (word, value) in self.facts() {
            text = text.replace(&format!("{{{word}}}"), &value);
        }
        text
    }

    /// The environment of whatever runs for it: the job's, and what the run is.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let mut all = BTreeMap::from([("PATH".to_owned(), search_path())]);
        for (word, value) in self.facts() {
            let name = match word.starts_with("PORT") {
                true => word,
                false => format!("ORCHESTRATOR_{word}"),
            };
            all.insert(name, value);
        }
        let own = &self.workload.env;
        all.extend(
            own.iter()
                .map(|(name, value)| (name.clone(), self.expand(value))),
        );
        all.insert(RUN.to_owned(), dir);
        all
    }

    fn facts(&self) -> Vec<(String, String)> {
        let Key { job, slot } = &self.id.key;
        let mut facts = vec![
            ("NODE".to_owned(), self.node.to_string()),
            ("NAMESPACE".to_owned(), job.namespace().to_owned()),
            ("JOB".to_owned(), job.name().to_owned()),
            ("VERSION".to_owned(), self.version.to_string()),
            ("SLOT".to_owned(), slot.to_string()),
        ];
        let first = self.workload.ports.first();
        if let Some(port) = first.and_then(|first| self.ports.get(&first.name)) {
            facts.push(("PORT".to_owned(), port.to_string()));
        }
        let named = |(name, port): (&String, &u16)| {
            (
                format!("PORT_{}", workload::variable(name)),
                port.to_string(),
            )
        };
        facts.extend(self.ports.iter().map(named));
        if let Some(artifact) = &self.artifact {
            let artifact = artifact.to_string_lossy().into_owned();
            facts.push(("ARTIFACT".to_owned(), artifact));
        }
        facts
    }

    /// Makes its directory, before anything is started.
    pub(crate) fn keep(&self) -> io::Result<()> {
        disk::directory(&self.dir.join("work"))?;
        let kept = Kept {
            id: self.id.clone(),
            version: self.version,
            node: self.node.clone(),
            row: self.row,
            ports: self.ports.clone(),
            artifact: self.artifact.clone(),
            made_millis: self.made.and_then(|made| made.as_millis().try_into().ok()),
            trial: self.trial,
            document: self.document.clone(),
            name: Some(self.name.clone()),
        };
        disk::replace_json(&self.dir.join(KEPT), &kept)
    }

    /// Writes down what an operator should know of it. It is said once, however often it is found.
    pub(crate) fn remark(&self, text: &str) {
        if let Err(why) = remark(&self.dir, text) {
            tracing::warn!(run = %self.id, text, %why, "a remark cannot be written");
        }
    }

    /// What was remarked of it.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let all = disk::read_text(&self.dir.join(REMARKS));
        let all = all.ok().flatten().unwrap_or_default();
        all.lines().map(str::to_owned).collect()
    }

    /// Puts a mark on it that survives the agent.
    pub(crate) fn mark(&self, mark: Mark) -> io::Result<()> {
        disk::note(&self.dir.join(mark.name()), b"")
    }

    /// Notes when it has heard that it is to stop.
    pub(crate) fn note_heard(&self, at: Moment) -> io::Result<()> {
        let millis = at.as_millis().to_string();
        disk::note(&self.dir.join(HEARD), millis.as_bytes())
    }

    /// When it has heard that it is to stop, of an agent that was there before, since this machine booted or earlier.
    pub(crate) fn heard(&self, now: Moment) -> Option<Moment> {
        let noted = disk::read_text(&self.dir.join(HEARD)).ok()??;
        // What an earlier boot has noted may be anything, but was not later than it says now.
        if let Ok(at) = noted.trim().parse() {
            return Some(Moment::from_millis(at).min(now));
        }
        // An earlier program has not said when.
        if let Err(why) = self.note_heard(now) {
            tracing::warn!(run = %self.id, %why, "when it has heard that it is to stop cannot be noted");
        }
        Some(now)
    }

    /// Notes that it goes on for a later assignment, of which the server has heard nothing yet.
    pub(crate) fn note_taken(&self, taken: Attempt) -> io::Result<()> {
        match std::fs::remove_file(self.dir.join(Mark::Told.name())) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => disk::note_json(&self.dir.join(TAKEN), &taken),
        }
    }

    /// For which later assignment it goes on, if it does.
    pub(crate) fn taken(&self) -> io::Result<Option<Attempt>> {
        disk::read_or_put_aside(&self.dir.join(TAKEN))
    }

    /// Notes how far its version has proved itself since.
    pub(crate) fn note_trial(&self, trial: Trial) -> io::Result<()> {
        disk::note_json(&self.dir.join(TRIAL), &trial)
    }

    /// How far its version has proved itself.
    pub(crate) fn trial_by_now(&self) -> Trial {
        let noted = disk::read_or_put_aside(&self.dir.join(TRIAL));
        noted.ok().flatten().unwrap_or(self.trial)
    }

    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.dir.join(mark.name()).exists()
    }
}

/// Where programs are looked for, if a job says nothing else.
pub(crate) fn search_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into())
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    Asked,
    Told,
    GivenUp,
    Dismissed,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Told => "told",
            Self::GivenUp => "given_up",
            Self::Dismissed => "dismissed",
        }
    }
}

/// Writes down what an operator should know of the run in this directory.
pub(crate) fn remark(dir: &Path, text: &str) -> io::Result<()> {
    let path = dir.join(REMARKS);
    let mut all = disk::read_text(&path)?.unwrap_or_default();
    if all.lines().any(|line| line == text) {
        return Ok(());
    }
    all += text;
    all.push('\n');
    disk::note(&path, all.as_bytes())
}

/// How long ago the run in this directory was made, as far as clocks and the directory tell.
pub(crate) fn age(dir: &Path) -> Duration {
    let made = std::fs::metadata(dir.join(KEPT)).and_then(|kept| kept.modified());
    let age = made.ok().and_then(|made| made.elapsed().ok());
    age.unwrap_or_default()
}

/// The directory of a run.
pub(crate) fn directory(runs: &Path, id: &RunId) -> PathBuf {
    let Key { job, slot } = &id.key;
    runs.join(format!("{}@", job.namespace()))
        .join(format!("{}@", job.name()))
        .join(format!("{slot}.{}.{}", id.generation, id.attempt))
}

/// What a run in this directory is called.
pub(crate) fn name(dir: &Path, id: &RunId) -> String {
    let hash = disk::sum(dir.as_os_str().as_encoded_bytes());
    let key = &id.key;
    let job: String = (key.job.name().chars())
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    format!(
        "orchestrator-{job}-{}-{}-{}-{hash:016x}",
        key.slot, id.generation, id.attempt,
    )
}

/// What there is from before.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The runs that were kept.
    pub(crate) runs: Vec<Run>,
    /// Directories of what is none: it was not written whole and never began, or its file is damaged.
    pub(crate) broken: Vec<PathBuf>,
    /// What such ones have become that could not be taken away.
    pub(crate) aside: Vec<PathBuf>,
}

/// All runs that were kept. Directories that are not called as a run is are somebody else's.
pub(crate) fn find(runs: &Path) -> io::Result<Found> {
    if runs.is_symlink() {
        return Err(linked(runs));
    }
    disk::directory(runs)?;
    let mut found = Found::default();
    let is_named = |dir: &Path| dir.as_os_str().as_encoded_bytes().ends_with(b"@");
    for namespace in directories(runs, is_named)? {
        for job in directories(&namespace, is_named)? {
            let is_run = |dir: &Path| id_of(runs, dir).is_some() || is_aside(runs, dir);
            for dir in directories(&job, is_run)? {
                let Some(id) = id_of(runs, &dir) else {
                    found.aside.push(dir);
                    continue;
                };
                match disk::read_json::<Kept>(&dir.join(KEPT)) {
                    Ok(Some(kept)) if kept.id == id => found.runs.push(restore(kept, dir)),
                    Ok(Some(other)) => {
                        let dir_shown = dir.display();
                        tracing::error!(dir = %dir_shown, run = %other.id, "a copy of another run is in the place of one");
                        found.broken.push(dir);
                    }
                    Ok(None) => found.broken.push(dir),
                    Err(why) if disk::is_damaged(&dir.join(KEPT), &why) => {
                        tracing::error!(%why, "nobody knows what this run is: what runs there is ended");
                        found.broken.push(dir);
                    }
                    // It is over.
                    Err(why) if dir.join(ENDED).exists() => {
                        tracing::error!(%why, "a run that has ended cannot be read");
                    }
                    Err(why) => return Err(why),
                }
            }
        }
    }
    Ok(found)
}

/// Which run has this directory.
fn id_of(runs: &Path, dir: &Path) -> Option<RunId> {
    let name = |path: Option<&Path>| path?.file_name()?.to_str().map(str::to_owned);
    let mut above = dir.ancestors();
    let numbers = name(above.next())?;
    let job = name(above.next())?;
    let namespace = name(above.next())?;
    let job = format!(
        "{}/{}",
        namespace.strip_suffix('@')?,
        job.strip_suffix('@')?
    );
    let mut numbers = numbers.split('.');
    let id = RunId {
        key: Key {
            job: Job::try_from(job).ok()?,
            slot: numbers.next()?.parse().ok()?,
        },
        generation: numbers.next()?.parse().ok()?,
        attempt: numbers.next()?.parse().ok()?,
    };
    (directory(runs, &id) == dir).then_some(id)
}

/// Those that are called as ours are; what else is there is left alone.
fn directories(dir: &Path, is_ours: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|why| disk::of(dir, &why))?;
    for entry in entries {
        let path = entry?.path();
        if !is_ours(&path) {
            tracing::warn!(path = %path.display(), "this is not called as a run is, nor as where runs are: it is left alone");
        } else if path.is_symlink() {
            return Err(linked(&path));
        } else if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn linked(path: &Path) -> io::Error {
    let why = "a link to somewhere else, where nobody would know that what runs is of this data directory: move all of that there, or mount the other one here";
    let why = format!("{}: {why}", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn restore(kept: Kept, dir: PathBuf) -> Run {
    // What was read once, as a part of a larger text, is read again.
    let document = kept.document.read().unwrap_or_default();
    let workload = Workload::read(&document).unwrap_or_else(|why| {
        // Of another version of this program. What it started must be found all the same.
        tracing::warn!(dir = %dir.display(), why, "a run is understood only in part");
        Workload::in_part(&document)
    });
    Run {
        // An earlier program has not kept it.
        name: kept.name.unwrap_or_else(|| name(&dir, &kept.id)),
        id: kept.id,
        version: kept.version,
        node: kept.node,
        row: kept.row,
        ports: kept.ports,
        artifact: kept.artifact,
        made: kept.made_millis.map(Moment::from_millis),
        trial: kept.trial,
        document: kept.document,
        workload: Arc::new(workload),
        dir,
    }
}

/// Whether this was put aside, and was a run's directory before.
fn is_aside(runs: &Path, dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let before = name.split_once(ASIDE).map(|(before, _)| before);
    before.is_some_and(|before| id_of(runs, &dir.with_file_name(before)).is_some())
}

/// Takes away what is none of the runs, also where it cannot be emptied: the next one of its name begins in a directory of
/// its own. Who lives there all the same is known by a lock that is gone.
pub(crate) fn put_away(dir: &Path) -> io::Result<()> {
    shim::kill_unknown(dir)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!("{name}{ASIDE}{:08x}", rand::random::<u32>()));
    let put = match std::fs::remove_file(dir.join(shim::LOCK)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => std::fs::rename(dir, &aside),
    };
    put.map_err(|why| disk::of(dir, &why))?;
    take_away(&aside);
    Ok(())
}

/// Takes away what was put aside, as far as that can be done. The next agent tries it again.
pub(crate) fn take_away(aside: &Path) {
    if let Err(why) = disk::remove_directory(aside) {
        tracing::error!(%why, "what is left of a run cannot be taken away");
    }
}

/// Takes away the directories that hold nothing more. They come back when they are needed.
pub(crate) fn tidy(dir: &Path) {
    let above = dir.ancestors().skip(1).take(2);
    for dir in above {
        // Fails where something is in it, as it should.
        let _ = std::fs::remove_dir(dir);
    }
}

#[cfg(test)]
impl Run {
    /// One of default/web 0.1 on n1, kept in this directory and called after it.
    pub(crate) fn kept(dir: PathBuf, attempt: u32, document: serde_json::Value) -> Self {
        let run = Self {
            id: RunId {
                key: Key {
                    job: "default/web".to_owned().try_into().unwrap(),
                    slot: 0,
                },
                generation: 1,
                attempt,
            },
            version: 1,
            node: "n1".into(),
            row: 0,
            ports: BTreeMap::new(),
            workload: Arc::new(Workload::read(&document).unwrap()),
            document: serde_json::from_value(document).unwrap(),
            artifact: None,
            made: None,
            trial: Trial::Over,
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            dir,
        };
        run.keep().unwrap();
        run
    }
}
