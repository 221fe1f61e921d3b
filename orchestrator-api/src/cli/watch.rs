//! Watches a deployment to its end, and says how it ended; and what else is watched takes from here.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use orchestrator_core::Span;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::client::Client;
use super::deployments::links_text;
use super::error::Error;
use super::live;
use super::show::{Out, now, pairs, read};
use crate::native::schema::{
    Deployment, ExplanationResponse, GetDeploymentResponse, Link, State, TargetPage,
};
use crate::typed;

/// What becomes of what a command started.
#[derive(clap::Args)]
pub(super) struct Follow {
    /// Do not watch how it goes
    #[arg(long, conflicts_with = "timeout")]
    pub(super) detach: bool,
    /// Watch for so long at the most: 10m; then the exit code is 5
    #[arg(long, value_name = "TIME", value_parser = typed::time)]
    pub(super) timeout: Option<Span>,
}

/// What ends the watching.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Until {
    // The deployment's end.
    End,
    // Its canaries are healthy, and wait for a person or a script; or its end.
    Promotion,
}

pub(super) const COMPLETED: u8 = 0;
pub(super) const FAILED: u8 = 2;
pub(super) const ROLLED_BACK: u8 = 3;
pub(super) const CANCELED: u8 = 4;
const TIMEOUT: u8 = 5;
pub(super) const INTERRUPTED: u8 = 130;

/// What is watched here, as the command line calls it.
const DEPLOYMENT: &str = "deployment";

/// For how long a server may be away before watching is given up.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(300);
/// How often it is said that it is away.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Before the server is asked again that was not there.
pub(super) const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// How long what is drawn stands at the least: nobody reads faster.
const DRAWN_FOR: Duration = Duration::from_millis(100);
/// How often the time that is left is drawn anew.
const TICK: Duration = Duration::from_secs(1);
/// Of larger deployments only the whole is shown, not each wave.
const TARGETS_MAX: u32 = 10_000;

/// Watches it until then, the end of the time that is given to it, or an interrupt, and gives the exit code.
pub(super) async fn watch(
    id: String,
    until: Until,
    timeout: Option<Span>,
    client: &Client,
    out: &Out,
) -> Result<u8, Error> {
    let watching = watch_until(until, id.clone(), client, out);
    within(timeout, DEPLOYMENT, &id, watching).await
}

/// Gives the exit code that watching one of this kind ends with; or another, at the end of the time or at an interrupt.
pub(super) async fn within(
    timeout: Option<Span>,
    kind: &str,
    id: &str,
    watching: impl Future<Output = Result<u8, Error>>,
) -> Result<u8, Error> {
    let deadline = timeout.map(|span| Instant::now() + Duration::from_millis(span.as_millis()));
    let again = format!("orchestrator {kind} watch {id}");
    let timed_out = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // First: once anything is said, an interrupt is heard.
        biased;
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            eprintln!("\nThe {kind} goes on. Watch it again: {again}");
            eprintln!("Or call it off: orchestrator {kind} cancel {id}");
            Ok(INTERRUPTED)
        }
        ended = watching => ended,
        () = timed_out => {
            eprintln!("It is still under way. Watch it again: {again}");
            Ok(TIMEOUT)
        }
    }
}

/// Watches it as long as it takes, and gives the exit code.
pub(super) async fn watch_to_its_end(id: String, client: &Client, out: &Out) -> Result<u8, Error> {
    watch_until(Until::End, id, client, out).await
}

async fn watch_until(until: Until, id: String, client: &Client, out: &Out) -> Result<u8, Error> {
    let mut watching = Watching {
        client,
        out,
        until,
        screen: Screen::new(out),
        seen: None,
        waited: false,
    };
    watching.follow(id).await
}

struct Watching<'a> {
    client: &'a Client,
    out: &'a Out,
    until: Until,
    screen: Screen,
    /// What was shown last: which deployment, and its revision.
    seen: Option<(String, u64)>,
    /// Whether it waited for a person then.
    waited: bool,
}

impl Watching<'_> {
    async fn follow(&mut self, mut id: String) -> Result<u8, Error> {
        let mut taken_back = false;
        loop {
            let shown = self.next(&id).await?;
            let waits = live::waits_for_promotion(&shown);
            if waits && self.until == Until::Promotion {
                return Ok(COMPLETED);
            }
            if let (false, Screen::Lines { .. }) = (self.waited, &self.screen) {
                self.out.say(&pairs(&live::choice(&shown), self.out))?;
            }
            self.waited = waits;
            if shown.status.state == State::Failed && !self.out.json {
                self.screen.keep();
                if let Screen::Live { .. } = self.screen {
                    // The picture may have had no room for all of it.
                    self.out.say(&format!("\n{}\n", shown.status.message))?;
                }
                explain(&shown, self.client, self.out).await?;
            }
            let ended = match (shown.status.state, shown.rolled_back_by) {
                (State::Pending | State::InProgress | State::Paused, _) => continue,
                // What was done stays done, whatever came later.
                (State::Completed, _) if taken_back => ROLLED_BACK,
                (State::Completed, _) => COMPLETED,
                (State::Failed | State::Canceled, Some(by)) => {
                    (id, taken_back) = (by, true);
                    self.screen.keep();
                    continue;
                }
                // A rollback that came to nothing took nothing back.
                (State::Failed, None) | (State::Canceled, None) if taken_back => FAILED,
                (State::Failed, None) => FAILED,
                (State::Canceled, None) => CANCELED,
            };
            return Ok(ended);
        }
    }

    /// Shows the deployment as soon as it is another than was shown last.
    async fn next(&mut self, id: &str) -> Result<Deployment, Error> {
        let seen = self.seen.take().filter(|(known, _)| known == id);
        let path = match seen {
            Some((_, revision)) => format!("/v1/deployments/{id}?revision={revision}&wait=30s"),
            None => format!("/v1/deployments/{id}"),
        };
        let answer = asked(&path, DEPLOYMENT, &mut self.screen, self.client, self.out).await?;
        let GetDeploymentResponse { deployment } = read(answer.clone())?;
        self.seen = Some((id.to_owned(), deployment.status.revision));
        let targets = match self.screen {
            Screen::Live { .. } => self.targets(&deployment).await?,
            _ => None,
        };
        self.screen.show(&answer, &deployment, targets, self.out)?;
        if matches!(self.screen, Screen::Live { .. }) {
            sleep(DRAWN_FOR).await;
        }
        Ok(deployment)
    }

    async fn targets(&self, shown: &Deployment) -> Result<Option<TargetPage>, Error> {
        if shown.status.total_nodes > TARGETS_MAX {
            return Ok(None);
        }
        let path = format!("/v1/deployments/{}/targets", shown.id);
        let all = self
            .client
            .list(&path, &[], "targets", TARGETS_MAX as usize);
        match all.await {
            Ok(all) => read(all).map(Some),
            // They are looked at again with the next change.
            Err(why) if why.passes() => Ok(None),
            Err(why) => Err(why),
        }
    }
}

/// Says what led to its failure: which node, and why. It goes without where that cannot be had any more.
pub(super) async fn explain(failed: &Deployment, client: &Client, out: &Out) -> Result<(), Error> {
    let path = format!("/v1/deployments/{}/explain", failed.id);
    let Ok(answer) = client.get(&path).await else {
        return Ok(());
    };
    let ExplanationResponse { explanation } = read(answer)?;
    // That it failed has just been said, and what came of it is watched.
    let is_before = |link: &&Link| link.text != failed.status.message;
    let text = links_text(explanation.links.iter().take_while(is_before), out);
    let (namespace, job) = (&failed.namespace, &failed.job_id);
    out.say(&format!(
        "Why:\n{text}What its workloads wrote: orchestrator job logs {namespace}/{job}\n"
    ))
}

/// An answer about something of this kind. A server that has answered before and is away may come back, but is not waited
/// for for ever: also one that takes requests and says nothing.
pub(super) async fn asked(
    path: &str,
    kind: &str,
    screen: &mut Screen,
    client: &Client,
    out: &Out,
) -> Result<Value, Error> {
    let began = Instant::now();
    let mut tick = interval_at(began + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Duration::ZERO;
    let mut why_not = None;
    loop {
        let mut asking = pin!(client.get(path));
        let answer = loop {
            tokio::select! {
                // First: what fails at once leaves it no other moment.
                biased;
                _ = tick.tick() => {
                    let waited = began.elapsed();
                    if waited >= AWAY_MAX {
                        screen.make_room();
                        eprintln!(
                            "Given up: {} has not answered for {}. The {kind} goes on.",
                            client.address(), long(AWAY_MAX)
                        );
                        return Err(why_not.unwrap_or_else(|| client.broken("it says nothing")));
                    }
                    if waited >= told + TOLD_EVERY {
                        told += TOLD_EVERY;
                        screen.make_room();
                        eprintln!(
                            "{} has not answered for {}; it is asked for {} in all.",
                            client.address(), long(told), long(AWAY_MAX)
                        );
                    }
                    screen.redraw(out)?;
                }
                answer = &mut asking => break answer,
            }
        };
        match answer {
            Err(why) if client.has_answered() && why.passes() => {
                if why_not.is_none() {
                    screen.make_room();
                    eprintln!("{} does not answer; trying again.", client.address());
                }
                why_not = Some(why);
                sleep(AWAY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn long(time: Duration) -> Span {
    Span::from_secs(time.as_secs())
}

/// What watching looks like.
pub(super) enum Screen {
    /// A picture that is drawn over itself.
    Live {
        last: Option<Box<Drawn>>,
        /// How many lines the picture has.
        lines: usize,
    },
    /// A line for each change.
    Lines { last: Option<String> },
    /// The same for programs.
    Json { last: Option<Value> },
}

/// What the picture is of.
pub(super) struct Drawn {
    shown: Deployment,
    targets: Option<TargetPage>,
}

impl Screen {
    pub(super) fn new(out: &Out) -> Self {
        match (out.json, out.width) {
            (true, _) => Self::Json { last: None },
            (false, None) => Self::Lines { last: None },
            (false, Some(_)) => Self::Live {
                last: None,
                lines: 0,
            },
        }
    }

    fn show(
        &mut self,
        answer: &Value,
        shown: &Deployment,
        targets: Option<TargetPage>,
        out: &Out,
    ) -> Result<(), Error> {
        match self {
            Self::Live { last, .. } => {
                *last = Some(Box::new(Drawn {
                    shown: shown.clone(),
                    targets,
                }));
                self.redraw(out)
            }
            Self::Lines { last } => {
                let text = &shown.status.message;
                if last.as_ref() != Some(text) {
                    out.say(&format!("{}  {text}\n", shown.status.updated_at))?;
                    *last = Some(text.clone());
                }
                Ok(())
            }
            Self::Json { last } => {
                if last.as_ref() != Some(answer) {
                    out.line(answer)?;
                    *last = Some(answer.clone());
                }
                Ok(())
            }
        }
    }

    /// Draws what is there already, with the time that is left now.
    fn redraw(&mut self, out: &Out) -> Result<(), Error> {
        let Self::Live { last, lines } = self else {
            return Ok(());
        };
        let Some(drawn) = last else {
            return Ok(());
        };
        let Drawn { shown, targets } = &**drawn;
        let targets = targets.as_ref().map(|page| page.targets.as_slice());
        let picture = live::picture(shown, targets, now(), out);
        let up = match *lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        };
        *lines = picture.len();
        let mut text = up;
        for line in picture {
            text += &line;
            text += "\n";
        }
        out.say(&text)
    }

    /// Lets stand what is drawn; what follows comes below.
    fn keep(&mut self) {
        if let Self::Live { last, lines } = self {
            (*last, *lines) = (None, 0);
        }
    }

    /// Lets stand what is drawn for what is said now, and is drawn once more below that.
    fn make_room(&mut self) {
        if let Self::Live { lines, .. } = self {
            *lines = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cli::show::Paint;

    /// A server that answers once; then nobody listens, or nobody answers.
    async fn answers_once(client: &Client, listener: &TcpListener) {
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.expect("a request") > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).await.expect("written");
        };
        let (answer, ()) = tokio::join!(client.get("/"), answering);
        answer.expect("an answer");
    }

    #[tokio::test]
    async fn a_server_that_is_gone_or_says_nothing_is_given_up() {
        for listens in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = format!("http://{}", listener.local_addr().expect("one"));
            let client = Client::new(&address, None, None).expect("an address");
            answers_once(&client, &listener).await;
            let listener = listens.then_some(listener);
            let out = Out {
                json: false,
                width: None,
                height: 24,
                paint: Paint(false),
            };
            let mut screen = Screen::new(&out);
            tokio::time::pause();
            let began = Instant::now();
            let answer = asked("/", DEPLOYMENT, &mut screen, &client, &out).await;
            let why = answer.expect_err("nobody answers");
            let took = began.elapsed();
            tokio::time::resume();
            assert_eq!(why.code(), 1, "{why}");
            assert!(took >= AWAY_MAX && took < 2 * AWAY_MAX, "{took:?}: {why}");
            drop(listener);
        }
    }
}
