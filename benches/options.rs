//! The command line.

use orchestrator_benches::table::read_size;

/// What is to be done.
pub(crate) enum Run {
    /// Measure.
    Tables(Options),
    /// One of the processes that are measured: this program again.
    Process { what: Process, on: String },
}

/// What another process does.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Process {
    /// Prints what fleets of so many nodes take in memory, so that none finds the room that another left.
    MemoryOfCore,
    /// The same of what that is compared to.
    MemoryOfBaseline,
    /// Is the server, on this directory.
    Serve,
    /// Is the one that it is compared to: it answers everything with what is in this file.
    Bare,
}

impl Process {
    const ALL: [(&str, Self); 4] = [
        ("--memory-of-core", Self::MemoryOfCore),
        ("--memory-of-baseline", Self::MemoryOfBaseline),
        ("--serve", Self::Serve),
        ("--bare", Self::Bare),
    ];

    /// What it is asked for by.
    pub(crate) fn word(self) -> &'static str {
        let mut all = Self::ALL.iter();
        let found = all.find(|(_, what)| *what == self);
        found.expect("it is one of them").0
    }
}

/// How much is measured.
pub(crate) struct Options {
    /// Absent where it is not asked for: numbers of nodes, in the order of the rows.
    pub(crate) core: Option<Vec<usize>>,
    /// The same: numbers of agents.
    pub(crate) server: Option<Vec<usize>>,
    /// Whether an agent is measured that is idle.
    pub(crate) agent: bool,
    /// A few rounds only, to see that everything runs.
    pub(crate) quick: bool,
    /// Whether the tables take the place of those that are kept with the sources.
    pub(crate) keep: bool,
}

impl Options {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Run, String> {
        let (mut core, mut server, mut agent) = (false, false, false);
        let (mut quick, mut keep, mut sizes) = (true, false, None);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "core" => core = true,
                "server" => server = true,
                "agent" => agent = true,
                "--full" => quick = false,
                "--keep" => keep = true,
                "--sizes" => {
                    let each: Result<Vec<usize>, String> =
                        value()?.split(',').map(read_size).collect();
                    sizes = Some(each?);
                }
                _ => match Process::ALL.iter().find(|(name, _)| *name == word) {
                    Some(&(_, what)) => return value().map(|on| Run::Process { what, on }),
                    None => return Err(format!("{word} is nothing to measure, and no option")),
                },
            }
        }
        let part = core || server || agent;
        if keep && (quick || part || sizes.is_some()) {
            return Err("what is kept is whole: --full --keep, and nothing else".to_owned());
        }
        if sizes.is_some() && core == server {
            return Err("--sizes of what? Say core or server".to_owned());
        }
        if !part {
            (core, server, agent) = (true, true, true);
        }
        if let Some(wrong) = sizes.iter().flatten().find(|&&n| core && !is_fleet(n)) {
            return Err(format!(
                "{wrong} nodes are no size: thousands from 1k to 2m"
            ));
        }
        let usual = |quick_sizes: &[usize], full: &[usize]| {
            sizes
                .clone()
                .unwrap_or_else(|| if quick { quick_sizes } else { full }.to_vec())
        };
        Ok(Run::Tables(Self {
            core: core.then(|| usual(&[1000, 10_000], &[1000, 10_000, 100_000, 1_000_000])),
            server: server.then(|| usual(&[100], &[100, 1000, 10_000])),
            agent,
            quick,
            keep,
        }))
    }
}

fn is_fleet(nodes: usize) -> bool {
    (1000..=2_000_000).contains(&nodes) && nodes.is_multiple_of(1000)
}
