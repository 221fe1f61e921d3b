//! What a driver that starts again, and one that prints what went wrong, relies on.

mod story;

use orchestrator_core::{Command, Entry, Event, Input, Job, Request};
use story::{SEED, Story};

fn played(lines: &str) -> Story {
    let mut story = Story::new();
    story.play(lines).unwrap_or_else(|why| panic!("{why}"));
    story
}

#[test]
fn a_job_that_is_rebuilt_takes_the_time_until_its_first_step_for_nobodys() {
    let story = played("nodes n1..n3\ndeploy v1\neveryone started\ndeploy v2 rolling deadline=2m");
    let later = story.now.after(orchestrator_core::Span::from_secs(3600));
    let rebuilt = || Job::recover("web".parse().expect("a name"), SEED, &story.log);
    let mut job = rebuilt().expect("no gap");
    // Neither a copy, nor a plan, nor what is refused is a first step.
    assert!(job.clone().step(later, Input::Tick).is_ok());
    let cancel = Command::Cancel(job.deployment().expect("it goes on").id);
    assert!(job.plan(later, Request::from(cancel)).is_ok());
    assert!(job.step(later, Command::Restart.into()).is_err());
    let (entries, _) = job.step(later, Input::Tick).expect("it is time").split();
    let absent = |e: &Entry| matches!(e.event, Event::Absent { millis: 3_600_000 });
    assert!(entries.len() == 1 && absent(&entries[0]), "{entries:?}");
    // Once.
    let much_later = later.after(orchestrator_core::Span::from_secs(120));
    let (entries, _) = job
        .step(much_later, Input::Tick)
        .expect("it is time")
        .split();
    assert_eq!(entries[0].event.kind(), "failed");
    // A driver that was there, and only had put the job away, says so and is believed.
    let mut job = rebuilt().expect("no gap");
    let step = job.step(later, Input::Absent { millis: 0 });
    let (entries, _) = step.expect("it is taken").split();
    assert_eq!(entries[0].event.kind(), "failed");
}

#[test]
fn an_error_is_printed_once() {
    let story = played("nodes n1");
    let mut request = story.registration("v1").expect("a command");
    if let Command::Register { spec, .. } = &mut request.command {
        spec.lost_after = orchestrator_core::Span::from_millis(u64::MAX);
    }
    let why = story.job.plan(story.now, request).expect_err("it is none");
    let source = std::error::Error::source(&why)
        .expect("it says why")
        .to_string();
    assert!(!why.to_string().contains(&source), "{why}");
}
