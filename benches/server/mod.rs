//! What the server bears, over real HTTP on this machine's loopback. Simulated agents are tasks of this process; the
//! server is a process of its own, on a store on disk.

mod agents;
mod child;
mod client;
mod lists;
mod reads;
mod rollout;

use std::time::Duration;

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::size;

pub(crate) use self::child::{bare, serve};

/// Measures with so many agents at a time, and with lists of so many deployments; a rate for so long.
pub(crate) fn measure(sizes: &[usize], lists: [usize; 2], time: Duration, measured: &mut Measured) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut table = rollout::table();
        for &count in sizes {
            eprintln!("{} agents …", size(count));
            table.row(rollout::row(count, time).await);
        }
        measured.add(table);
        measured.add(reads::table(time).await);
        measured.add(lists::table(lists).await);
    });
}
