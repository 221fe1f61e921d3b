//! What an operator types in the course of a day, and what he reads.

use serde_json::{Value, json};

use crate::harness::{Server, as_told};
use crate::run::{Person, Session, output};

pub(crate) const WEB: &str = r#"job_id = "web"
driver = "exec"

[config]
command = ["web", "--port", "8080"]

[rollout]
strategy = "rolling"
max_parallel = 2
max_failed_nodes = 0

[rollout.health_check]
deadline = "1h"
min_healthy_time = "0s"
failure_threshold = 1
"#;

/// The same with one canary first.
pub(crate) fn canary() -> String {
    WEB.replace("\"rolling\"", "\"canary\"")
        .replace("max_failed_nodes", "canary_count = 1\nmax_failed_nodes")
}

pub(crate) fn person(server: &Server) -> Person {
    let person = Person::at(format!("http://{}", server.client.address));
    person.writes("web.toml", WEB);
    person
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_from_its_plan_to_its_stop() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let mut session = Session::of(&person, "A job, from its plan to its stop.");
    session.types("job plan web.toml").await;
    session.watches("job run web.toml").await;
    session.types("job run web.toml --detach").await;
    let changed = WEB.replace("8080", "9090") + "[env]\nTIER = \"front\"\n";
    person.writes("web.toml", &changed);
    session.types("job plan web.toml").await;
    session
        .types("job run web.toml --expected-version 7 --detach")
        .await;
    session
        .watches("job run web.toml --expected-version 1")
        .await;
    session.types("job plan web.toml").await;
    session.watches("job rollback web --to 1").await;
    person.writes("web.toml", WEB);
    session.types("job run web.toml --detach").await;
    session.types("job versions web").await;
    session.watches("job restart web").await;
    session.types("job status web").await;
    session.types("job list").await;
    session.types("deployment list").await;
    session
        .types("deployment list --filter 'type = rollback' --limit 1")
        .await;
    session.types("deployment status web").await;
    session.watches("job stop web").await;
    session.types("job status web").await;
    session.types("job restart web").await;
    session.is("job");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_more_and_fewer_of_a_job() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    person.writes("web.toml", &format!("replicas = 2\n{WEB}"));
    let mut session = Session::of(&person, "More and fewer of a job.");
    session.watches("job run web.toml").await;
    session.types("job scale web 3").await;
    session.types("job scale web 3").await;
    session.types("node list").await;
    session.types("job scale web 1").await;
    session.types("job versions web").await;
    session.types("job scale web 1000001").await;
    session.types("job scale web some").await;
    session.types("job scale web 2 --output json").await;
    person.writes("web.toml", WEB);
    session.watches("job run web.toml").await;
    session.types("job scale web 2").await;
    session.is("scale");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_and_those_who_look_after_it() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let canary = canary();
    person.writes("web.json", &as_json(&canary).to_string());
    let ran = person
        .types("job run web.json --detach --output json")
        .await;
    let id = ran.json()["deployment_id"].as_str().unwrap().to_owned();
    let api = &server.client;
    api.until(&id, |shown| shown["status"]["waiting_on"] == "promotion")
        .await;

    let mut session = Session::of(&person, "A canary, and those who look after it.");
    session.types("deployment status web").await;
    session.types("deployment targets web").await;
    session.types("deployment explain web").await;
    session.types("deployment pause web").await;
    session.types("deployment promote web").await;
    session
        .types("deployment resume web --expected-revision 1")
        .await;
    session.types("deployment resume web").await;
    api.until_state(&id, "completed").await;
    session.types("deployment promote web").await;
    session.types("deployment cancel web").await;
    session.types("deployment events web --limit 3").await;
    session.types("deployment watch web").await;
    session.types("deployment rollback web").await;
    session.is("canary");
    server.stop().await;
}

fn as_json(toml: &str) -> Value {
    // The test's own reading: no more than these files need.
    let mut document = json!({});
    let mut section = Vec::new();
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.split('.').map(str::to_owned).collect();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let place = section.iter().fold(&mut document, |at, part| &mut at[part]);
            place[name] = serde_json::from_str(value).unwrap();
        }
    }
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    let mut session = Session::of(&person, "Nodes.");
    session.types("node list").await;
    session.types("node drain n1").await;
    session.types("node list --limit 1").await;
    session.types("node status n1").await;
    session.types("node enable n1").await;
    session.types("node remove n2 --output json").await;
    session.types("node remove n2").await;
    session.types("node status n2").await;
    session.is("node");
    server.stop().await;
}

/// What programs read is what the server says, whatever people are shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_the_answer_of_the_server() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let ran = person.types("job run web.toml --output json").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<Value> = ran
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let id = lines[0]["deployment_id"].as_str().unwrap();
    let revisions: Vec<u64> = lines[1..]
        .iter()
        .map(|line| line["deployment"]["status"]["revision"].as_u64().unwrap())
        .collect();
    assert!(
        revisions.is_sorted() && !revisions.is_empty(),
        "{revisions:?}"
    );
    let deployment = format!("/v1/deployments/{id}");
    let last = lines.last().unwrap();
    assert_eq!(*last, server.client.get(&deployment).await.json());

    for (line, path) in [
        ("job list", "/v1/jobs".to_owned()),
        ("job status web", "/v1/jobs/default/web".to_owned()),
        (
            "job versions web",
            "/v1/jobs/default/web/versions".to_owned(),
        ),
        ("deployment list", "/v1/deployments".to_owned()),
        ("deployment status web", deployment.clone()),
        ("deployment targets web", format!("{deployment}/targets")),
        ("deployment events web", format!("{deployment}/events")),
        ("deployment explain web", format!("{deployment}/explain")),
        ("node list", "/v1/nodes".to_owned()),
        ("node status n1", "/v1/nodes/n1".to_owned()),
    ] {
        let ran = person.types(&format!("{line} --output json")).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.json(), server.client.get(&path).await.json(), "{line}");
    }
    // A list that ends before its end says where it goes on; one of many pages is one list.
    let some = person
        .types("deployment events web --limit 2 --output json")
        .await;
    assert_eq!(some.json()["events"].as_array().unwrap().len(), 2);
    assert!(some.json()["next_page_token"].is_string(), "{some:?}");
    let plan = person.types("job plan web.toml --output json").await;
    assert_eq!(plan.json()["changes"], json!([]), "{plan:?}");
    let mut piped = person.command("job plan - --output json");
    piped.stdin(std::fs::File::open(person.dir().join("web.toml")).unwrap());
    assert_eq!(output(piped).await.json(), plan.json());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_token_closes_the_server() {
    let server = Server::start().await;
    let person = person(&server);
    let ran = person.types("token create --name ci --role deployer").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("make an admin token first"), "{ran:?}");
    // An agent that has none, and is there.
    let api = &server.client;
    let joined = api.post("/v1/agent/join", json!({ "name": "n1" })).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    let mut agent = api.stream("/v1/agent/stream?node=n1", &[]).await;
    agent.next().await.unwrap();
    let ran = person.types("token create --name me --role admin").await;
    let shut_out = "1 agent is without a token, and not let in any more: give each a join token (orchestrator token \
                    create --role join --name <node>), and start it again with that.\n";
    assert!(ran.stderr.starts_with(shut_out), "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
    person.writes("token", &ran.stdout);
    let id = ran.stdout.split('_').nth(1).unwrap().to_owned();

    let ran = person.types("node list").await;
    let wanted = "error: the server wants a token: give one with --token-file, --token or ORCHESTRATOR_TOKEN\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, wanted));
    let mine = "--token-file token";
    let ran = person.types(&format!("token list {mine}")).await;
    assert_eq!(ran.lines().len(), 2, "{ran:?}");
    assert!(ran.lines()[1].starts_with(&format!("{id}  me    admin ")));
    let ran = person
        .types(&format!(
            "token create --name n17 --role node --node n17 --expires-in 90d {mine} --output json"
        ))
        .await;
    let other = ran.json()["id"].as_str().unwrap().to_owned();
    let ran = person.types(&format!("token revoke {other} {mine}")).await;
    assert_eq!(ran.stdout, format!("{other}: revoked\n"));
    let ran = person.types(&format!("token list {mine}")).await;
    assert!(ran.stdout.contains("revoked "), "{ran:?}");
    let ran = person.types(&format!("audit list --limit 1 {mine}")).await;
    assert!(ran.lines()[1].contains(&other), "{ran:?}");
    assert_eq!(ran.stderr, "There are more: see --limit.\n");
    let ran = person.types("node list --token orc_x").await;
    let wanted = "error: the token is mistyped or cut short: copy it again";
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with(wanted), "{ran:?}");
    // Whoever locks everybody out is told how to come in again; not so, who leaves another admin.
    let ran = person
        .types(&format!(
            "token create --name you --role admin {mine} --output json"
        ))
        .await;
    let other = ran.json()["id"].as_str().unwrap().to_owned();
    let ran = person.types(&format!("token revoke {other} {mine}")).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let ran = person.types(&format!("token revoke {id} {mine}")).await;
    assert_eq!(ran.stdout, format!("{id}: revoked\n"));
    assert!(
        ran.stderr.starts_with("It was the last admin token"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("token create --data-dir"), "{ran:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_first_token_is_made_where_no_server_runs() {
    let person = Person::at("http://127.0.0.1:9");
    let ran = person
        .types("token create --name first --role admin --data-dir data")
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let token = ran.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("orc_"), "{ran:?}");
    let id = token.split('_').nth(1).unwrap();
    let said = format!(
        "data was no data directory, and is a new one now.\nThis is token {id}. It will not be shown again:\n"
    );
    assert_eq!(ran.stderr, said);
    let ran = person
        .types("token create --name n1 --role node --data-dir data")
        .await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            1,
            "error: a token of the role node is for one node: say which\n"
        )
    );
    let ran = person
        .types("token create --name n1 --role node --node n1 --data-dir data --output json")
        .await;
    assert!(ran.json()["token"].as_str().unwrap().starts_with("orc_"));
    let ran = person.types(&format!("token revoke {token}")).await;
    assert_eq!(ran.code, 64, "{ran:?}");
}

#[tokio::test]
async fn what_needs_no_server() {
    let person = Person::at("http://127.0.0.1:9");
    let mut session = Session::of(&person, "What needs no server.");
    session
        .types("simulate --nodes 1000 --failure-rate 0.02 --seed 7")
        .await;
    session
        .types("simulate --nodes 20 --strategy immediate --max-parallel 2")
        .await;
    session.types("simulate --lost 2").await;
    session.is("simulate");
    let mut session = Session::of(&person, "What a job file may say.");
    session.types("job fields artifact").await;
    session.types("job fields interval").await;
    session.types("job fields intervall").await;
    session.is("fields");
    let ran = person.types("job fields --output json").await;
    let fields = ran.json()["fields"].as_array().cloned();
    assert!(fields.is_some_and(|fields| fields.len() > 80));
    let ran = person.types("simulate --nodes 20 --output json").await;
    assert_eq!(ran.json()["state"], "completed");

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = person.types(&format!("completions {shell}")).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        for word in [
            "orchestrator",
            "deployment",
            "promote",
            "group",
            "token-file",
            "accept-older",
        ] {
            assert!(ran.stdout.contains(word), "{shell}: no {word}");
        }
    }
    assert_eq!(person.types("man pages").await.code, 0);
    let pages = std::fs::read_dir(person.dir().join("pages")).unwrap();
    let pages: Vec<_> = pages.map(|page| page.unwrap().file_name()).collect();
    for page in [
        "orchestrator.1",
        "orchestrator-deployment-watch.1",
        "orchestrator-group-run.1",
        "orchestrator-agent.1",
    ] {
        assert!(pages.iter().any(|known| known == page), "{pages:?}");
        let text = std::fs::read_to_string(person.dir().join("pages").join(page)).unwrap();
        let head = text.lines().find(|line| line.starts_with(".TH")).unwrap();
        assert!(head.contains("\"orchestrator "), "{head}");
    }
    // The agent's own options, and none of those that ask a server.
    let page = std::fs::read_to_string(person.dir().join("pages/orchestrator-agent.1")).unwrap();
    assert!(
        page.contains("\\-\\-drain") && !page.contains("\\-\\-address"),
        "{page}"
    );
}
