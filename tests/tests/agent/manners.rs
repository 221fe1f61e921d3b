//! What does harm is contained.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::damage::kill;
use crate::harness::{Node, Server, eventually, immediate, rolling, service};
use crate::restarts::apart;

#[tokio::test]
async fn a_check_that_never_answers_fails_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["checks"] = json!([{
        "type": "command", "command": ["sh", "-c", "sleep 1000 & sleep 1000"],
        "interval": "100ms", "timeout": "300ms", "start_period": "0s",
    }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "failed").await;
    server.api.stopped("web").await;
    eventually("nothing is left", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_may_do_no_more_than_its_workload() {
    let server = Server::start().await;
    let _node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["config"] = json!({ "command": ["sleep", "1000"], "user": "nobody" });
    job["checks"] = json!([{
        "type": "command", "command": ["sh", "-c", "test $(id -un) = nobody && touch here"],
        "interval": "100ms", "timeout": "1s",
    }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    server.api.stopped("web").await;
}

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    job["job_type"] = json!("batch");
    job["checks"] = json!([]);
    job["config"] = json!({
        "command": ["sh", "-c", "yes | head -c 30000000; echo the last line"],
        "log_bytes": 65536, "log_files": 3,
    });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let status = node.status().await.unwrap();
    let dir = std::path::Path::new(status["runs"][0]["directory"].as_str().unwrap()).to_owned();
    let last = std::fs::read_to_string(dir.join("stdout.log")).unwrap();
    assert!(last.ends_with("the last line\n"));
    let files = std::fs::read_dir(&dir).unwrap().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("stdout"));
    let sizes: Vec<u64> = logs.map(|file| file.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 65536), "{sizes:?}");
}

#[tokio::test]
async fn a_port_of_its_own_is_passed_on_from_version_to_version() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for color in ["red", "green", "blue"] {
        let mut job = service(&[("COLOR", color)], rolling());
        job["ports"] = json!([{ "name": "http", "port": port }]);
        let id = server.api.register(job).await;
        server.api.until_state(&id, "completed").await;
    }
    node.answers(3).await;
    let status = node.status().await.unwrap();
    let attempts = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["attempt"].as_u64());
    assert_eq!(
        attempts.max(),
        Some(Some(1)),
        "the port was never taken: {status:#}"
    );
}

#[tokio::test]
async fn nobody_is_taken_for_another_at_his_port() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let job = |name: &str| {
        let mut job = service(&[], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job
    };
    let id = server.api.register(job("web")).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    let sentence = format!("port http: {port} is in use by a program that is not the agent's");
    assert!(said.contains(&sentence), "{said}");
    drop(taken);
    let mut again = job("web");
    again["env"]["COLOR"] = json!("green");
    let id = server.api.register(again).await;
    server.api.until_state(&id, "completed").await;

    // Its checks would be answered by the other one.
    let mut other = job("shop");
    other["config"] = json!({ "command": ["sleep", "1000"] });
    let id = server.api.register(other).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    let sentence = format!("port http: {port} is that of default/web on this node");
    assert!(said.contains(&sentence), "{said}");
    node.until("it is shown", |status| {
        let all = status["executions"].as_array().unwrap();
        all.iter().any(|execution| {
            let standing = execution["standing"].as_str().unwrap();
            standing.contains(&sentence)
        })
    })
    .await;
}

#[tokio::test]
async fn a_check_says_why_it_does_not_pass() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut job = service(&[("SICK", "1")], rolling());
    let check = |check: serde_json::Value| {
        let mut check = check;
        check["interval"] = json!("100ms");
        check["timeout"] = json!("300ms");
        check["start_period"] = json!("0s");
        check
    };
    job["checks"] = json!([
        check(json!({ "type": "http", "path": "/health" })),
        check(json!({ "type": "http", "port": silent.local_addr().unwrap().port() })),
        check(json!({ "type": "command", "command": ["sh", "-c", "exit 7"] })),
        check(json!({ "type": "command", "command": ["/nowhere/check"] })),
        check(json!({ "type": "tcp" })),
    ]);
    job["error_rate"] = json!({
        "from": "prometheus", "port": 1, "requests": "requests_total", "failed": "failed_total",
    });
    server.api.register(job).await;
    let expected = json!([
        { "type": "http", "passing": false, "why": "status 503" },
        { "type": "http", "passing": false, "why": "no answer within 300ms" },
        { "type": "command", "passing": false, "why": "it ended with 7" },
        { "type": "command", "passing": false, "why": "/nowhere/check: No such file or directory (os error 2)" },
        { "type": "tcp", "passing": true },
        { "type": "error_rate", "why": "port 1, /metrics: Connection refused (os error 111)" },
    ]);
    node.until("each says why", |status| {
        status["runs"][0]["checks"] == expected
    })
    .await;
}

#[tokio::test]
async fn a_page_without_an_end_is_as_good_as_its_head() {
    let server = Server::start().await;
    let _node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = endless.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in endless.incoming().flatten() {
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head = lines.map_while(Result::ok);
                head.take_while(|line| !line.is_empty()).for_each(drop);
                let answered = write!(stream, "HTTP/1.1 200 Said\r\n\r\n");
                while answered.is_ok() && stream.write_all(&[b'.'; 4096]).is_ok() {}
            });
        }
    });
    let mut job = service(&[], rolling());
    job["checks"] = json!([{
        "type": "http", "port": port, "interval": "100ms", "timeout": "2s", "start_period": "0s",
    }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let server = Server::start().await;
    let _node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["config"]["directory"] = json!("/nowhere/at/all");
    let id = server.api.register(job).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("/nowhere/at/all: No such file"), "{said}");
}

#[tokio::test]
async fn who_is_told_twice_to_end_does_not_wait_for_what_does_not_stop() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&["--drain"]);
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    let script = "trap '' TERM; while true; do sleep 1; done";
    job["config"] = json!({ "command": ["sh", "-c", script], "stop_grace": "10m" });
    job["checks"] = json!([]);
    server.api.register(job).await;
    node.until("it is up", |status| {
        status["executions"][0]["standing"] == "up"
    })
    .await;
    let agent = Pid::from_raw(node.agent_pid()).unwrap();
    kill_process(agent, Signal::TERM).unwrap();
    node.until("it waits", |status| {
        status["runs"][0]["phase"] == "stopping"
    })
    .await;
    kill_process(agent, Signal::TERM).unwrap();
    assert!(!node.ended().await.success());
    assert!(!node.processes().is_empty(), "it goes on");
}

#[tokio::test]
async fn what_a_check_has_left_running_ends_with_it() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    for resources in [json!({}), json!({ "processes": 100 })] {
        let mut job = service(&[], rolling());
        job["resources"] = resources;
        job["checks"] = json!([{
            "type": "command", "command": ["sh", "-c", "sleep 1000 & exit 0"], "interval": "100ms",
        }]);
        let id = server.api.register(job).await;
        server.api.until_state(&id, "completed").await;
        // That of a check which goes on just now is there.
        let few = async || (node.processes().len() <= 3).then_some(());
        eventually("they are no more than of one check", few).await;
    }
}

#[tokio::test]
async fn a_port_goes_from_one_job_to_another() {
    let (server, mut node) = apart().await;
    let [one, two] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = [one, two].map(|free| free.local_addr().unwrap().port());
    let job = |name: &str, port: u16, color: &str| {
        let mut job = service(&[("COLOR", color)], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job
    };
    // It takes its time to end.
    let mut slow = job("old", one, "red");
    let script = "trap 'sleep 1; exit 0' TERM; sleep 1000 & wait";
    slow["config"] = json!({ "command": ["sh", "-c", script] });
    slow["checks"] = json!([]);
    let id = server.api.register(slow).await;
    server.api.until_state(&id, "completed").await;
    server
        .api
        .post("/v1/jobs/default/old/stop", json!({}))
        .await;
    let id = server.api.register(job("web", one, "red")).await;
    server.api.until_state(&id, "completed").await;

    // Two exchange theirs, both told at once.
    let id = server.api.register(job("shop", two, "red")).await;
    server.api.until_state(&id, "completed").await;
    node.kill().await;
    let first = server.api.register(job("web", two, "green")).await;
    let second = server.api.register(job("shop", one, "green")).await;
    node.start_apart(&[]);
    for id in [first, second] {
        server.api.until_state(&id, "completed").await;
    }

    // For one that another keeps nothing ends; and when that one wants another, too, both go where they want to.
    let of = async |name: &str| {
        let status = node.status().await.unwrap();
        let runs = status["runs"].as_array().unwrap().iter();
        let mut of_it =
            runs.filter(|run| run["job"] == format!("default/{name}") && run["phase"] == "running");
        let run = of_it.next().cloned();
        run.map(|run| (run["version"].clone(), run["ports"]["http"].clone()))
    };
    let before = of("web").await;
    assert!(before.is_some());
    let mut job_of_web = job("web", one, "blue");
    job_of_web["rollout"]["no_auto_rollback"] = json!(true);
    let id = server.api.register(job_of_web).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    let sentence = format!("port http: {one} is that of default/shop on this node");
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(of("web").await, before);
    let id = server.api.register(job("shop", two, "blue")).await;
    server.api.until_state(&id, "completed").await;
    eventually("it has the port that it wants", async || {
        (of("web").await == Some((json!(3), json!(one)))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_goes_on_keeps_its_port_and_for_that_nothing_ends() {
    let (server, mut node) = apart().await;
    let free = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let free = free.map(|free| free.local_addr().unwrap().port());
    let job = |name: &str, port: serde_json::Value| {
        let mut job = service(&[("COLOR", name)], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([port]);
        job["rollout"]["no_auto_rollback"] = json!(true);
        job
    };
    let fixed = |port: u16| json!({ "name": "http", "port": port });
    for (name, port) in ["a", "b", "c", "d", "e"].into_iter().zip(free) {
        let id = server.api.register(job(name, fixed(port))).await;
        server.api.until_state(&id, "completed").await;
    }
    let before = node.processes();
    assert_eq!(before.len(), 5);

    // One of what cannot begin, and of the one that waits for that one, and so on.
    node.kill().await;
    let [_, b, c, _, e] = free;
    let mut missing = job("c", fixed(c));
    missing["config"] = json!({ "command": "/nowhere/x" });
    let mut all = Vec::new();
    for wanted in [job("a", fixed(b)), job("b", fixed(c)), missing] {
        all.push(server.api.register(wanted).await);
    }
    node.start_apart(&[]);
    for (id, why) in all.iter().zip([
        format!("port http: {b} is that of default/b on this node"),
        format!("port http: {c} is that of default/c on this node"),
        "/nowhere/x: No such file or directory".to_owned(),
    ]) {
        server.api.until_state(id, "failed").await;
        let said = server.api.targets(id).await;
        assert!(said.contains(&why), "{said}");
    }
    assert_eq!(node.processes(), before);

    // And one that goes on beside its next version, for as long as that is not healthy.
    let mut sick = job("e", json!({ "name": "http" }));
    sick["switch"] = json!("start_first");
    sick["env"]["SICK"] = json!("1");
    let sick = server.api.register(sick).await;
    let both = eventually("both run", async || {
        let now = node.processes();
        (now.len() == 6).then_some(now)
    });
    let both = both.await;
    let id = server.api.register(job("d", fixed(e))).await;
    eventually("it waits for it", async || {
        let status = node.status().await.unwrap();
        let all = status["executions"].as_array().unwrap().iter();
        let mut of_it = all.filter(|it| it["job"] == "default/d" && it["version"] == 2);
        of_it
            .any(|it| it["standing"] == "waiting for a port")
            .then_some(())
    })
    .await;
    assert_eq!(node.processes(), both);
    server.api.until_state(&sick, "failed").await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    let why = format!("port http: {e} is that of default/e on this node");
    assert!(said.contains(&why), "{said}");
    assert_eq!(node.processes(), both);
}

#[tokio::test]
async fn of_two_that_want_a_port_one_gets_it_and_the_other_goes_on_until_it_is_free() {
    let (server, mut node) = apart().await;
    let free = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two, both, other] = free.map(|free| free.local_addr().unwrap().port());
    let job = |name: &str, port: u16| {
        let mut job = service(&[("COLOR", &port.to_string())], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job["rollout"]["no_auto_rollback"] = json!(true);
        job
    };
    let mut before = Vec::new();
    for (name, port) in [("one", one), ("two", two)] {
        let id = server.api.register(job(name, port)).await;
        server.api.until_state(&id, "completed").await;
        let mut now = node.processes();
        now.retain(|pid| !before.contains(pid));
        before.extend(now);
    }
    let [of_one, of_two] = before[..] else {
        panic!("{before:?}");
    };

    node.kill().await;
    let first = server.api.register(job("one", both)).await;
    let second = server.api.register(job("two", both)).await;
    node.start_apart(&[]);
    let mut over = Vec::new();
    for id in [&first, &second] {
        let is_over = |state: &serde_json::Value| state == "completed" || state == "failed";
        let ended = server
            .api
            .until(id, |it| is_over(&it["status"]["state"]))
            .await;
        over.push(ended["status"]["state"].clone());
    }
    // Whoever is ready first.
    let is_first = over[0] == "completed";
    assert_eq!(over[usize::from(is_first)], "failed", "{over:?}");
    let (winner, loser, lost, stays, ends) = match is_first {
        true => ("one", "two", &second, of_two, of_one),
        false => ("two", "one", &first, of_one, of_two),
    };
    let said = server.api.targets(lost).await;
    let whose = [
        format!("port http: {both} is wanted by default/{winner} too"),
        format!("port http: {both} is that of default/{winner} on this node"),
    ];
    assert!(whose.iter().any(|why| said.contains(why)), "{said}");
    let now = node.processes();
    assert!(now.contains(&stays) && !now.contains(&ends));

    let id = server.api.register(job(winner, other)).await;
    server.api.until_state(&id, "completed").await;
    eventually("it has the port that it wants", async || {
        let status = node.status().await.unwrap();
        let mut runs = status["runs"].as_array().unwrap().iter();
        let is_it = |run: &serde_json::Value| {
            run["job"] == format!("default/{loser}")
                && run["phase"] == "running"
                && run["ports"]["http"] == both
        };
        runs.any(is_it).then_some(())
    })
    .await;
    let before = node.processes();
    assert_eq!(before.len(), 2);

    // Who has it by now is before the other.
    node.kill().await;
    let mut next = job(loser, both);
    next["env"]["COLOR"] = json!("next");
    let next = server.api.register(next).await;
    let id = server.api.register(job(winner, both)).await;
    node.start_apart(&[]);
    server.api.until_state(&next, "completed").await;
    server.api.until_state(&id, "failed").await;
    let now = node.processes();
    assert_eq!(now.iter().filter(|pid| before.contains(pid)).count(), 1);
    assert_eq!(now.len(), 2);
}

#[tokio::test]
async fn who_is_down_keeps_its_port_and_waits_for_it_for_as_long_as_it_takes() {
    let (server, node) = apart().await;
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = free.map(|free| free.local_addr().unwrap().port());
    let job = |name: &str, port: u16| {
        let mut job = service(&[], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job["restart"] = json!({ "attempts": 2, "backoff": "1s", "backoff_max": "1s" });
        job["rollout"]["no_auto_rollback"] = json!(true);
        job
    };
    let id = server.api.register(job("one", one)).await;
    server.api.until_state(&id, "completed").await;
    let of_one = node.processes();
    let id = server.api.register(job("two", two)).await;
    server.api.until_state(&id, "completed").await;
    let mut of_two = node.processes();
    of_two.retain(|pid| !of_one.contains(pid));
    let id = server.api.register(job("two", one)).await;
    server.api.until_state(&id, "failed").await;

    // The other one wants its port still.
    let attempt = async |number: u32| {
        eventually("it is up again", async || {
            let status = node.status().await.unwrap();
            let mut runs = status["runs"].as_array().unwrap().iter();
            let is_it = |run: &serde_json::Value| {
                run["job"] == "default/one" && run["attempt"] == number && run["ready"] == true
            };
            runs.any(is_it).then_some(())
        })
        .await;
        let mut now = node.processes();
        now.retain(|pid| !of_two.contains(pid));
        let [pid] = now[..] else {
            panic!("{now:?} beside {of_two:?}");
        };
        pid
    };
    let pid = attempt(1).await;
    kill(pid);
    let pid = attempt(2).await;

    // And a program that is none of the agent's has it. To wait for that is no attempt.
    kill(pid);
    let foreign = eventually("its port is free", async || {
        TcpListener::bind(("127.0.0.1", one)).ok()
    });
    let foreign = foreign.await;
    let sentence = format!("port http: {one} is in use by a program that is not the agent's");
    let standing = async || {
        let status = node.status().await.unwrap();
        let mut all = status["executions"].as_array().unwrap().iter();
        let of_it = all.find(|it| it["job"] == "default/one").unwrap();
        of_it["standing"].as_str().unwrap().to_owned()
    };
    eventually("it waits for it", async || {
        standing().await.contains(&sentence).then_some(())
    })
    .await;
    drop(foreign);
    attempt(3).await;
}

#[tokio::test]
async fn what_is_put_back_waits_for_its_port() {
    let (server, node) = apart().await;
    let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two, other] = free.map(|free| free.local_addr().unwrap().port());
    let job = |name: &str, port: u16| {
        let mut job = service(&[("COLOR", name)], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job["restart"] = json!({ "attempts": 1, "backoff": "100ms", "put_back": true });
        job["rollout"]["no_auto_rollback"] = json!(true);
        job
    };
    for (name, port) in [("one", one), ("two", two)] {
        let id = server.api.register(job(name, port)).await;
        server.api.until_state(&id, "completed").await;
    }
    // It is up for long enough that the other one gets its port.
    let mut broken = job("one", other);
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("may-end");
    let script = format!(
        "while ! test -e {}; do sleep 0.1; done; exit 3",
        flag.display()
    );
    broken["config"] = json!({ "command": ["sh", "-c", script] });
    broken["checks"] = json!([]);
    server.api.register(broken).await;
    let taken = server.api.register(job("two", one)).await;
    server.api.until_state(&taken, "completed").await;
    std::fs::write(&flag, "").unwrap();
    eventually("it has failed", async || {
        let status = node.status().await.unwrap();
        let mut all = status["executions"].as_array().unwrap().iter();
        all.any(|it| it["job"] == "default/one" && it["standing"] == "exited: 3")
            .then_some(())
    })
    .await;
    assert_eq!(node.processes().len(), 1);
    server
        .api
        .post("/v1/jobs/default/two/stop", json!({}))
        .await;
    // Without an attempt in vain.
    eventually("it is back", async || {
        let status = node.status().await.unwrap();
        let mut runs = status["runs"].as_array().unwrap().iter();
        let is_it = |run: &serde_json::Value| {
            run["job"] == "default/one" && run["version"] == 1 && run["ready"] == true
        };
        let run = runs.find(|run| is_it(run))?;
        assert_eq!(run["attempt"], 2);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn who_listens_without_having_said_so_has_the_port_all_the_same() {
    let (server, node) = apart().await;
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = free.map(|free| free.local_addr().unwrap().port());
    let says = |name: &str, port: u16| {
        let mut job = service(&[], rolling());
        job["job_id"] = json!(name);
        job["ports"] = json!([{ "name": "http", "port": port }]);
        job["rollout"]["no_auto_rollback"] = json!(true);
        job
    };
    let mut says_nothing = service(&[("PORT", &one.to_string())], rolling());
    says_nothing["ports"] = json!([]);
    says_nothing["checks"] = json!([{ "type": "tcp", "port": one, "interval": "100ms" }]);
    for job in [says_nothing, says("other", two)] {
        let id = server.api.register(job).await;
        server.api.until_state(&id, "completed").await;
    }
    let before = node.processes();
    let id = server.api.register(says("other", one)).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    let sentence = format!("port http: {one} is that of default/web on this node");
    assert!(said.contains(&sentence), "{said}");
    assert_eq!(node.processes(), before);

    // Its own next version says so, and gets it.
    let id = server.api.register(says("web", one)).await;
    server.api.until_state(&id, "completed").await;
    let now = node.processes();
    assert_eq!(now.iter().filter(|pid| before.contains(pid)).count(), 1);
    assert_eq!(now.len(), 2);
}
