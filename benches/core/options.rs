//! The command line.

use orchestrator_benches::table::read_size;

/// What is to be done.
pub(crate) enum Run {
    /// Print the tables.
    Tables(Options),
    /// Print what a fleet takes in memory: a child process for each, so that none finds the room that
    /// another left.
    Memory { nodes: usize, of: Of },
}

/// Whose memory.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Core,
    Baseline,
}

/// How much is measured.
pub(crate) struct Options {
    /// Numbers of nodes, in the order of the rows.
    pub(crate) sizes: Vec<usize>,
    /// A few rounds only, to see that everything runs.
    pub(crate) quick: bool,
}

impl Options {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Run, String> {
        let (mut sizes, mut quick) = (None, false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--quick" => quick = true,
                "--sizes" => {
                    sizes = Some(value()?.split(',').map(size).collect::<Result<_, _>>()?);
                }
                "--memory-of-core" => {
                    let (nodes, of) = (size(&value()?)?, Of::Core);
                    return Ok(Run::Memory { nodes, of });
                }
                "--memory-of-baseline" => {
                    let (nodes, of) = (size(&value()?)?, Of::Baseline);
                    return Ok(Run::Memory { nodes, of });
                }
                _ => return Err(format!("unknown option {word}")),
            }
        }
        let usual: &[usize] = if quick {
            &[1000, 10_000]
        } else {
            &[1000, 10_000, 100_000, 1_000_000]
        };
        let sizes = sizes.unwrap_or_else(|| usual.to_vec());
        Ok(Run::Tables(Self { sizes, quick }))
    }

    /// How often something is measured that takes the longer the more nodes there are.
    pub(crate) fn rounds(&self, nodes: usize) -> usize {
        if self.quick {
            2
        } else {
            (1_000_000 / nodes).clamp(3, 25)
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    let nodes = read_size(text)?;
    if (1000..=2_000_000).contains(&nodes) && nodes % 1000 == 0 {
        Ok(nodes)
    } else {
        Err(format!("{text} is no size: thousands from 1k to 2m"))
    }
}
