//! What has to be so now.

use orchestrator_core::{Ignored, Job, Record, Span, Time, explain};

use super::words::{number, same, same_names, span, version, word};
use super::{Line, SEED, Story};

impl Story {
    pub(super) fn expect(&self, what: &str) -> Line {
        let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
        let came = &self.came;
        match first {
            "refused" => match &came.refused {
                Some(why) if why.contains(rest) => Ok(()),
                Some(why) => Err(format!("refused, but: {why}")),
                None => Err("it was taken".to_owned()),
            },
            "nothing" => match (&came.refused, came.changed) {
                (None, false) => Ok(()),
                (why, changed) => Err(format!("changed: {changed}, refused: {why:?}")),
            },
            "ignored" => {
                let found: Vec<_> = came.ignored.iter().map(|&why| ignored(why)).collect();
                if found.is_empty() || found.len() < came.reports {
                    return Err(format!(
                        "{} of {} reports were ignored",
                        found.len(),
                        came.reports
                    ));
                }
                found.into_iter().try_for_each(|why| same(why, rest))
            }
            "started" => same_names(came.started.clone(), self.names(rest)?),
            "answer" => {
                let answer = came.answer.ok_or("that was no command")?;
                same(format!("v{}", answer.version), rest)
            }
            "plan" => {
                let plan = came.plan.as_ref().ok_or("that was no plan")?;
                let waves = rest.split('/').map(|wave| self.names(wave));
                let wanted = waves.collect::<Result<Vec<_>, _>>()?;
                let found = plan.waves.iter().map(|wave| wave.nodes.clone());
                same(waves_text(found), waves_text(wanted))
            }
            "version" => same(format!("v{}", self.job.version()), rest),
            "stable" => {
                let stable = self.job.versions().filter(|v| v.stable);
                let stable: Vec<_> = stable.map(|v| format!("v{}", v.number)).collect();
                same(stable.join(" "), rest)
            }
            "executions" => {
                let running = self.job.versions().filter(|v| v.executions > 0);
                let running = running.map(|v| format!("v{} {}", v.number, v.executions));
                same(running.collect::<Vec<_>>().join(", "), rest)
            }
            "deployments" => {
                let numbers = self.log.iter().filter_map(|e| e.of.map(|of| of.deployment));
                same(numbers.max().unwrap_or(0).to_string(), rest)
            }
            "wake-up" => {
                let wake = self.job.wake().ok_or("it does not wake by itself")?;
                same(self.until(wake), span(rest)?.to_string())
            }
            "no" if rest == "wake-up" => match self.job.wake() {
                None => Ok(()),
                Some(wake) => Err(format!("it wakes in {}", self.until(wake))),
            },
            "previous" => {
                let now = self.record()?;
                let of = self.log.iter().rev().find_map(|e| e.of);
                let number = of.map_or(0, |of| of.deployment).saturating_sub(1);
                let before = self.job.record_by_number(number);
                let before = before.filter(|r| r.id != now.id);
                let before = before.ok_or("there was none before it")?;
                self.expect_record(&before, rest)
                    .unwrap_or_else(|| Err(format!("cannot expect {rest:?} of it")))
            }
            _ => match self.job.deployment() {
                Some(record) => self.expect_record(&record, what),
                None => None,
            }
            .unwrap_or_else(|| self.expect_nodes(what)),
        }
    }

    /// Whether the reasons that the log gives have this among them.
    fn explained(&self, record: &Record, wanted: &str, given: bool) -> Line {
        let whole = Job::new(self.job.id().clone(), SEED);
        let chain = explain(whole, &self.log, record.id);
        let chain = chain.map_err(|e| e.to_string())?;
        let text = chain.map_or_else(String::new, |chain| chain.to_string());
        if text.contains(wanted) == given {
            return Ok(());
        }
        Err(format!("it is explained so:\n{text}"))
    }

    /// What the record of a deployment says; `None` where the word is none of a record's.
    fn expect_record(&self, record: &Record, what: &str) -> Option<Line> {
        let status = &record.status;
        let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
        Some(match first {
            "pending" | "in_progress" | "paused" | "completed" | "failed" | "canceled"
                if rest.is_empty() =>
            {
                same(word(status.state), first)
            }
            "waiting" => {
                let wanted = rest.strip_prefix("for ").unwrap_or(rest);
                same(status.waiting_on.as_deref().unwrap_or("nothing"), wanted)
            }
            "message" if !rest.is_empty() && status.message.contains(rest) => Ok(()),
            "message" => Err(format!("the message is {:?}", status.message)),
            "explained" => self.explained(record, rest, true),
            "unexplained" => self.explained(record, rest, false),
            "revision" => same(status.revision.to_string(), rest),
            "wave" => same(status.current_wave.to_string(), rest),
            "type" => same(word(record.kind), rest),
            "from" => {
                let (from, to) = (record.from_version, record.to_version);
                same(format!("v{from} to v{to}"), rest)
            }
            "canaries" => self
                .names(rest)
                .and_then(|wanted| same_names(status.canary_nodes.clone(), wanted)),
            "counts" => counts(record, rest),
            "progress" => rest
                .strip_suffix(" ago")
                .ok_or_else(|| "progress SPAN ago".to_owned())
                .and_then(|ago| {
                    let last = status.last_progress_time.ok_or("there was none")?;
                    let found = self.now.as_millis().saturating_sub(last.as_millis());
                    same(Span::from_millis(found).to_string(), span(ago)?.to_string())
                }),
            "deadline" => span(rest).and_then(|wanted| {
                let due = status.health_check_deadline;
                let due = due.ok_or("there is no deadline")?;
                same(self.until(due), wanted.to_string())
            }),
            "last-deadline" => span(rest).and_then(|wanted| {
                let due = status.healthy_deadline.ok_or("there is no deadline")?;
                same(self.until(due), wanted.to_string())
            }),
            "no" => match rest {
                "deadline" => same(
                    status.health_check_deadline.map_or("none", |_| "one"),
                    "none",
                ),
                "rollback" => same(record.rolled_back_by.map_or("none", |_| "one"), "none"),
                _ => match rest.strip_prefix("message ") {
                    Some(text) if !status.message.contains(text) => Ok(()),
                    Some(_) => Err(format!("the message is {:?}", status.message)),
                    None => return None,
                },
            },
            "linked" => {
                let failed = record.rollback_of.and_then(|id| self.job.record(id));
                match failed {
                    Some(failed) if failed.rolled_back_by == Some(record.id) => Ok(()),
                    Some(_) => Err("what it takes back does not name it".to_owned()),
                    None => Err("it takes nothing back".to_owned()),
                }
            }
            _ => return None,
        })
    }

    /// `expect n1 #2 updated`, `expect n1..n3 run v2`, `expect n1 runs nothing`.
    fn expect_nodes(&self, what: &str) -> Line {
        let (names, rest) = self.split_names(what)?;
        if names.is_empty() {
            return Err(format!("cannot expect {what:?} of nobody"));
        }
        let (verb, more) = rest.split_once(' ').unwrap_or((&rest, ""));
        if matches!(verb, "run" | "runs") {
            return names.iter().try_for_each(|name| self.runs(name, more));
        }
        for name in names {
            let mut targets = self.job.targets().filter(|t| t.node == name).peekable();
            targets
                .peek()
                .ok_or_else(|| format!("{name} is no target"))?;
            for target in targets {
                let reason = target.reason.unwrap_or_default();
                match verb {
                    "because" if !more.is_empty() && reason.contains(more) => {}
                    "because" => return Err(format!("{name} failed because {reason:?}")),
                    "lost" if target.lost => {}
                    "lost" => return Err(format!("{name} is not lost")),
                    _ => same(
                        format!("{name} {}", word(target.state)),
                        format!("{name} {rest}"),
                    )?,
                }
            }
        }
        Ok(())
    }

    /// `v1`, `v1 v1` (twice) or `nothing`.
    fn runs(&self, name: &str, wanted: &str) -> Line {
        if wanted != "nothing" {
            wanted.split(' ').try_for_each(|v| version(v).map(drop))?;
        }
        let found = self.job.desired(name).into_iter();
        let mut found: Vec<_> = found.map(|a| format!("v{}", a.version)).collect();
        found.sort();
        if found.is_empty() {
            found.push("nothing".to_owned());
        }
        same(
            format!("{name} runs {}", found.join(" ")),
            format!("{name} runs {wanted}"),
        )
    }

    fn record(&self) -> Result<Record, String> {
        let last = self.job.deployment();
        last.ok_or_else(|| "there is no deployment".to_owned())
    }

    fn until(&self, due: Time) -> String {
        let left = due.as_millis().saturating_sub(self.now.as_millis());
        Span::from_millis(left).to_string()
    }
}

/// `total 6, in_flight 2`: those that are named.
fn counts(record: &Record, wanted: &str) -> Line {
    let status = &record.status;
    for part in wanted.split(',') {
        let (name, count) = part.trim().split_once(' ').ok_or("counts NAME N, …")?;
        let found = match name {
            "total" => status.total_nodes,
            "pending" => status.pending_nodes,
            "in_flight" => status.in_flight_nodes,
            "updated" => status.updated_nodes,
            "failed" => status.failed_nodes,
            "skipped" => status.skipped_nodes,
            _ => return Err(format!("unknown count {name}")),
        };
        same(
            format!("{name} {found}"),
            format!("{name} {}", number::<u32>(count)?),
        )?;
    }
    Ok(())
}

/// `n1 n2 / n3`; who starts together is in order of names.
fn waves_text(waves: impl IntoIterator<Item = Vec<String>>) -> String {
    let sorted = waves.into_iter().map(|mut wave| {
        wave.sort();
        wave.join(" ")
    });
    sorted.collect::<Vec<_>>().join(" / ")
}

fn ignored(why: Ignored) -> &'static str {
    match why {
        Ignored::Idle => "idle",
        Ignored::UnknownTarget => "unknown target",
        Ignored::Stale => "stale",
        Ignored::Impossible => "impossible",
        Ignored::Duplicate => "duplicate",
        Ignored::Decided => "decided",
        Ignored::Lost => "lost",
        Ignored::NothingNew => "nothing new",
    }
}
