//! What the service manager is told, and the units that it is given.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::known;

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd");

fn heard(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 100];
    let length = manager.recv(&mut bytes).expect("it is told something");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn the_manager_hears_that_it_works_lives_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let patience = Duration::from_secs(60);
    manager.set_read_timeout(Some(patience)).unwrap();
    // There is no server: that one is away is no reason to begin again.
    let mut agent = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args([
            "--server",
            "http://127.0.0.1:1",
            "--node",
            "n1",
            "--data-dir",
        ])
        .arg(dir.path().join("data"))
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "100000")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut said: Vec<String> = (0..5).map(|_| heard(&manager)).collect();
    said.retain(|what| what != "WATCHDOG=1");
    assert_eq!(said, ["READY=1"], "and four times that it lives");
    let pid = Pid::from_raw(agent.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let last = std::iter::repeat_with(|| heard(&manager)).find(|what| what != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert!(agent.wait().unwrap().success());
}

#[test]
fn units_are_what_systemd_understands() {
    let dir = tempfile::tempdir().unwrap();
    for unit in ["orchestrator-agent.service", "orchestrator-server.service"] {
        let text = std::fs::read_to_string(Path::new(UNITS).join(unit)).unwrap();
        let has = |line: &str| text.lines().any(|other| other == line);
        assert!(has("Restart=always"), "{unit}");
        if unit == "orchestrator-agent.service" {
            // Otherwise workloads end with their agent, or nothing limits them.
            assert!(has("KillMode=process") && has("Delegate=yes") && has("Type=notify"));
        }
        // Where it will be, nothing is yet.
        let text = text.replace("/usr/bin/orchestrator", env!("CARGO_BIN_EXE_server"));
        std::fs::write(dir.path().join(unit), text).unwrap();
        if !known("systemd-analyze") {
            eprintln!("SKIPPED: nobody here can verify {unit}: there is no systemd-analyze");
            continue;
        }
        let path = dir.path().join(unit);
        let mut verify = Command::new("systemd-analyze");
        let told = verify.arg("verify").arg("--man=no").arg(path).output();
        let told = String::from_utf8_lossy(&told.unwrap().stderr).into_owned();
        let mut faults = told.lines().filter(|line| line.contains(unit));
        // Of a systemd that is older than this key, which it leaves out.
        let fault = faults.find(|line| !line.contains("'DelegateSubgroup'"));
        assert_eq!(fault, None, "{told}");
    }
}
