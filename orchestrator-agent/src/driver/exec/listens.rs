//! Who listens to a port, as `/proc` shows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::usage::families;

/// The state of a socket that listens.
const LISTENS: &str = "0A";

/// Below which of these processes somebody listens to a TCP port, if that can be seen.
pub(super) fn below(roots: &BTreeSet<i32>, port: u16) -> Option<i32> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: BTreeSet<PathBuf> = tables.iter().flat_map(|it| sockets(it, port)).collect();
    let has_one = |process: &crate::processes::Process| {
        let mut open = process.open();
        open.any(|file| sockets.contains(&file))
    };
    let mut below = families(roots).into_iter();
    below.find_map(|(root, process)| has_one(&process).then_some(root))
}

/// Those of a table that listen to a port, as they are called among a process's open files.
fn sockets(table: &str, port: u16) -> impl Iterator<Item = PathBuf> {
    let port = format!("{port:04X}");
    let lines = table.lines().skip(1);
    lines.filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, its) = fields.get(1)?.rsplit_once(':')?;
        let is_it = its == port && *fields.get(3)? == LISTENS;
        let number = fields.get(9).filter(|_| is_it)?;
        Some(format!("socket:[{number}]").into())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_table_is_read() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: nonsense
";
        let of = |port| sockets(table, port).collect::<Vec<_>>();
        assert_eq!(of(8080), [PathBuf::from("socket:[4711]")]);
        assert_eq!(of(80), [PathBuf::from("socket:[4713]")]);
        assert_eq!(of(443), <[PathBuf; 0]>::default());
    }

    #[test]
    fn who_listens_is_found_below_whom_he_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let me = i32::try_from(std::process::id()).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_pid();
        assert_eq!(below(&BTreeSet::from([parent]), port), Some(parent));
        assert_eq!(below(&BTreeSet::from([me]), port), None);
        drop(listener);
        assert_eq!(below(&BTreeSet::from([parent]), port), None);
    }
}
