//! What every store promises, tried on each of them; and what SQLite's has to bear besides.

mod conformance;
mod kill;
mod lists;
mod making;
mod mounts;
mod sqlite;

use making::Dir;
use orchestrator_api::store::Store;
use orchestrator_api::store::sqlite::Sqlite;

/// A store, and what it stands on for as long as it is there.
struct Fixture {
    store: Sqlite,
    dir: Dir,
}

fn embedded() -> Fixture {
    let dir = Dir::new();
    let store = Sqlite::open(dir.path()).expect("a new directory");
    Fixture { store, dir }
}

impl std::ops::Deref for Fixture {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

conformance::suite!(embedded: crate::embedded);
