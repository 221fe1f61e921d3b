//! What is in the audit log afterwards.

use orchestrator_api::access::Role;
use orchestrator_api::access::audit::{Listed, list};

use crate::{Fixture, who};

impl Fixture {
    async fn lines(&self) -> Vec<String> {
        let lines = list(&*self.store, None, 100).await.expect("lines");
        let show = |line: Listed| {
            let Listed {
                who,
                action,
                object,
                outcome,
                ..
            } = line;
            format!("{who}: {action} {object}: {outcome}")
        };
        lines.items.into_iter().rev().map(show).collect()
    }

    /// What is denied is written a little later.
    async fn lines_once(&self, count: usize) -> Vec<String> {
        loop {
            let lines = self.lines().await;
            if lines.len() >= count {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn it_says_who_did_what_and_who_was_denied() {
    let fixture = Fixture::closed();
    let node = fixture.token(Role::Node, Some("n1")).await;
    let id = &node.id;
    fixture.get("/read", None).await;
    fixture.post("/report", Some(&node), "n1").await;
    fixture.post("/agent/join", Some(&node), "n1").await;
    fixture.post("/agent/join", Some(&node), "n2").await;
    fixture.post("/deploy", Some(&node), "").await;
    fixture.post("/operate", None, "").await;
    assert_eq!(
        fixture.lines_once(4).await,
        [
            format!("the test: create token token {id} (a node, node n1): done"),
            format!("a node ({id}): POST /agent/join /agent/join: denied (403)"),
            format!(
                "a node ({id}): POST /deploy /deploy: denied: a node token may not do this: it takes a deployer or admin token"
            ),
            "unknown, from 0.0.0.0: POST /operate /operate: denied: a token is needed: send it as \
             \"Authorization: Bearer orc_…\", or as the password of HTTP Basic"
                .to_owned(),
        ]
    );
    fixture.access.revoke(id, who()).await.expect("it is there");
    fixture
        .access
        .revoke(id, who())
        .await
        .expect("it is still there");
    let lines = fixture.lines().await;
    assert_eq!(
        lines[4..],
        [format!(
            "the test: revoke token token {id} (a node, node n1): done"
        )]
    );
}

#[tokio::test]
async fn what_was_answered_is_in_it() {
    let fixture = Fixture::closed();
    let join = fixture.token(Role::Join, None).await;
    let said = fixture.post("/agent/join", Some(&join), "n1").await;
    assert_eq!(said.status, 200);
    let id = &join.id;
    let lines = fixture.lines().await;
    assert_eq!(
        lines[1..],
        [format!(
            "a join ({id}): use join token token {id} (a join, node n1): done"
        )],
        "once, with the change"
    );

    let open = Fixture::with(orchestrator_api::access::Opening::Open);
    open.post("/operate", None, "").await;
    assert_eq!(
        open.lines().await,
        ["anonymous: POST /operate /operate: done (200)"]
    );
}

#[tokio::test]
async fn pages_go_from_the_newest_to_the_oldest() {
    let fixture = Fixture::closed();
    for _ in 0..7 {
        fixture.token(Role::Viewer, None).await;
    }
    let mut numbers = Vec::new();
    let mut before = None;
    loop {
        let page = list(&*fixture.store, before, 3).await.expect("lines");
        numbers.extend(page.items.iter().map(|line| line.number));
        // What comes meanwhile moves nothing.
        fixture.token(Role::Viewer, None).await;
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(numbers, [7, 6, 5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn who_tries_without_end_does_not_fill_the_disk() {
    let fixture = Fixture::closed();
    for _ in 0..1000 {
        fixture.post("/operate", None, "").await;
    }
    let Fixture {
        access,
        app,
        store,
        dir: _dir,
    } = fixture;
    // What is left to say is said at the end.
    drop((access, app));
    let (written, left_out) = loop {
        let lines = list(&*store, None, 1000).await.expect("lines");
        let (mut written, mut left_out) = (0, 0);
        for line in lines.items {
            match line.object.strip_suffix(" requests") {
                Some(count) => left_out += count.parse::<usize>().expect("a number"),
                None => written += 1,
            }
        }
        if written + left_out == 1000 {
            break (written, left_out);
        }
        tokio::task::yield_now().await;
    };
    assert!(written >= 200 && left_out > 500, "{written} and {left_out}");
}
