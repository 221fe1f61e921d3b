//! Two counters from a page in the text format of Prometheus.
//!
//! They are read as differences, series by series: one that is not there for once, and comes back with all that it ever
//! counted, has not counted it meanwhile.

use std::collections::BTreeMap;

/// A series that was there is waited for in so many looks; and in so many a run that was found shows all that it has.
const WAIT_LOOKS: u32 = 4;
/// Of so many that are away for longer it is remembered how far they were.
const AWAY_MAX: usize = 1000;

type Labels = Vec<(String, String)>;

/// One counter, or several that are added up: `name`, or `name{label="value",…}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector {
    name: String,
    labels: Labels,
}

impl Selector {
    /// Reads one; else the sentence that says why it is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let (name, labels, rest) = series(text.trim()).ok_or_else(|| {
            format!("{text:?} is no counter, such as http_requests_total{{code=\"500\"}}")
        })?;
        match rest.is_empty() && !name.is_empty() {
            true => Ok(Self {
                name: name.to_owned(),
                labels,
            }),
            false => Err(format!("{text:?} is no counter: {rest:?} is too much")),
        }
    }

    /// All series of a page that match. One that is no number is not there.
    fn series(&self, page: &str) -> BTreeMap<Labels, u64> {
        let mut found = BTreeMap::new();
        for line in page.lines() {
            let line = line.trim_start();
            if !line.starts_with(self.name.as_str()) {
                continue;
            }
            let Some((name, mut labels, rest)) = series(line) else {
                continue;
            };
            let matches =
                name == self.name && self.labels.iter().all(|label| labels.contains(label));
            let value = rest
                .split_whitespace()
                .next()
                .and_then(|value| value.parse::<f64>().ok());
            if let Some(value) = value.filter(|value| matches && value.is_finite()) {
                labels.sort();
                let sum: &mut u64 = found.entry(labels).or_default();
                // A cast keeps to the bounds of its type.
                *sum = sum.saturating_add(value as u64);
            }
        }
        found
    }
}

/// How far the counters of a run are.
#[derive(Debug)]
pub(crate) struct Counters {
    requests: Counter,
    failed: Counter,
    /// In so many more looks, what is seen for the first time begins there. Else it has counted from nothing.
    begins: u32,
}

#[derive(Debug)]
struct Counter {
    /// As the job says.
    text: String,
    selector: Selector,
    series: BTreeMap<Labels, Series>,
}

#[derive(Clone, Copy, Debug)]
struct Series {
    last: u64,
    /// It was not there in so many looks.
    away: u32,
}

impl Counters {
    /// Those of a run that has just been started counted from nothing; of another, what they read first is the beginning.
    pub(crate) fn new(requests: &str, failed: &str, is_fresh: bool) -> Result<Self, String> {
        Ok(Self {
            requests: Counter::new(requests)?,
            failed: Counter::new(failed)?,
            begins: if is_fresh { 0 } else { WAIT_LOOKS + 1 },
        })
    }

    /// By how much requests and failures have grown since they could be read last; else why that is not known. Nothing
    /// is lost then: the next look tells it of both.
    pub(crate) fn read(&mut self, page: &str) -> Result<(u64, u64), String> {
        let requests = self.requests.selector.series(page);
        // Where nothing has failed yet, there may be no counter of it.
        let failed = self.failed.selector.series(page);
        if requests.is_empty() {
            return Err(format!("there is no counter {}", self.requests.text));
        }
        // Then what is not there has not counted yet.
        let began_again = self.requests.is_less(&requests) || self.failed.is_less(&failed);
        let all = self.requests.is_there(&requests, began_again);
        self.failed.is_there(&failed, began_again).and(all)?;
        let begins = self.begins > 0;
        self.begins = self.begins.saturating_sub(1);
        Ok((
            self.requests.take(requests, begins),
            self.failed.take(failed, begins),
        ))
    }
}

impl Counter {
    fn new(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.to_owned(),
            selector: Selector::read(text)?,
            series: BTreeMap::new(),
        })
    }

    fn is_less(&self, now: &BTreeMap<Labels, u64>) -> bool {
        let mut last = self.series.iter();
        last.any(|(labels, series)| now.get(labels).is_some_and(|now| *now < series.last))
    }

    /// Whether all that is waited for is there.
    fn is_there(&mut self, now: &BTreeMap<Labels, u64>, began_again: bool) -> Result<(), String> {
        self.series.retain(|labels, series| {
            series.away = match now.contains_key(labels) {
                true => 0,
                false => series.away.saturating_add(1),
            };
            series.away == 0 || !began_again
        });
        // Not of those that are waited for: until they are not, nothing comes to them.
        let lost = |series: &Series| series.away > WAIT_LOOKS;
        let mut away: Vec<u32> = self
            .series
            .values()
            .filter(|series| lost(series))
            .map(|series| series.away)
            .collect();
        if away.len() > AWAY_MAX {
            away.sort_unstable();
            let longest = away[AWAY_MAX];
            self.series
                .retain(|_, series| !lost(series) || series.away < longest);
        }
        let mut away = self.series.values().map(|series| series.away);
        match away.any(|away| (1..=WAIT_LOOKS).contains(&away)) {
            true => Err(format!("a series of {} is away", self.text)),
            false => Ok(()),
        }
    }

    /// Answers by how much it has grown. A series that is less than before began again.
    fn take(&mut self, now: BTreeMap<Labels, u64>, begins: bool) -> u64 {
        let mut grown = 0_u64;
        for (labels, now) in now {
            let series = self.series.entry(labels);
            let last = if begins { now } else { 0 };
            let series = series.or_insert(Series { last, away: 0 });
            grown = grown.saturating_add(now.checked_sub(series.last).unwrap_or(now));
            series.last = now;
        }
        grown
    }
}

/// Name, labels, and what follows.
fn series(text: &str) -> Option<(&str, Labels, &str)> {
    let end = text
        .find(|c: char| c == '{' || c.is_whitespace())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let Some(mut rest) = rest.strip_prefix('{') else {
        return Some((name, Vec::new(), rest));
    };
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((name, labels, rest));
        }
        let (label, after) = rest.split_once('=')?;
        let after = after.trim_start().strip_prefix('"')?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((label.trim().to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
# HELP http_requests_total How many.
# TYPE http_requests_total counter
http_requests_total{code="200",path="/a,}\"b"} 10 1700000000000
http_requests_total{code="500", path="/"} 2
http_requests_total_created 7
http_requests{code="500"} 99
up 1
broken{code="500" 4
strange NaN
"#;

    #[test]
    fn series_are_added_up() {
        let sum = |text: &str| {
            let found = Selector::read(text).unwrap().series(PAGE);
            (!found.is_empty()).then(|| found.values().sum::<u64>())
        };
        assert_eq!(sum("http_requests_total"), Some(12));
        assert_eq!(sum("http_requests_total{code=\"500\"}"), Some(2));
        assert_eq!(
            sum(r#"http_requests_total{path="/a,}\"b",code="200"}"#),
            Some(10)
        );
        assert_eq!(sum("http_requests_total{code=\"404\"}"), None);
        assert_eq!(sum("up"), Some(1));
        assert_eq!(sum("broken"), None);
        assert_eq!(sum("strange"), None);
        for wrong in ["", "a{b", "a{b=c}", "a b", "a{b=\"c\"} 1"] {
            assert!(Selector::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counters_are_read_as_differences() {
        let counters = |is_fresh| Counters::new("all", "bad", is_fresh).unwrap();
        let mut fresh = counters(true);
        assert_eq!(fresh.read("all 10"), Ok((10, 0)), "nothing has failed yet");
        assert_eq!(fresh.read("all 15\nbad 1"), Ok((5, 1)));
        assert_eq!(fresh.read("all 20\nbad 3"), Ok((5, 2)));
        assert_eq!(fresh.read("all 4\nbad 0"), Ok((4, 0)), "it began again");
        assert_eq!(fresh.read("all 14\nbad 2"), Ok((10, 2)));
        assert_eq!(fresh.read("all 3"), Ok((3, 0)), "and once more");
        let mut found = counters(false);
        assert!(found.read("al 1").unwrap_err().contains("no counter all"));
        assert_eq!(found.read("all 10\nbad 9"), Ok((0, 0)));
        assert_eq!(found.read("all 11\nbad 10"), Ok((1, 1)));
    }

    #[test]
    fn what_is_away_for_once_has_not_counted_all_again() {
        let mut counters = Counters::new("all", "bad", true).unwrap();
        counters.read("all 9000\nbad 5000").unwrap();
        for away in ["all 9010", "all 9020\nbad NaN"] {
            let why = counters.read(away).unwrap_err();
            assert!(why.contains("bad is away"), "{why}");
        }
        assert_eq!(counters.read("all 9030\nbad 5001"), Ok((30, 1)));

        // Nor is one of several that are added up.
        let mut counters = Counters::new("all", "all{code=\"500\"}", true).unwrap();
        let page =
            |good: u32, bad: u32| format!("all{{code=\"200\"}} {good}\nall{{code=\"500\"}} {bad}");
        counters.read(&page(9000, 50)).unwrap();
        assert!(counters.read("all{code=\"500\"} 50").is_err());
        assert_eq!(counters.read(&page(9001, 51)), Ok((2, 1)));
    }

    #[test]
    fn one_of_several_that_stays_away_is_not_waited_for_forever() {
        let mut counters = Counters::new("all", "bad", true).unwrap();
        counters
            .read("all{worker=\"1\"} 10\nall{worker=\"2\"} 10")
            .unwrap();
        for _ in 0..WAIT_LOOKS {
            counters.read("all{worker=\"2\"} 11").unwrap_err();
        }
        assert_eq!(counters.read("all{worker=\"2\"} 12"), Ok((2, 0)));
        assert_eq!(counters.read("all{worker=\"2\"} 13"), Ok((1, 0)));
        // Nor has it counted all again when it comes back.
        let both = "all{worker=\"1\"} 12\nall{worker=\"2\"} 13";
        assert_eq!(counters.read(both), Ok((2, 0)));
    }

    #[test]
    fn the_only_one_that_stays_away_is_not_waited_for_forever() {
        let mut counters = Counters::new("all", "bad", true).unwrap();
        counters.read("all 10\nbad 1").unwrap();
        for _ in 0..WAIT_LOOKS {
            // It began again, and has more to do than before.
            counters.read("all 90").unwrap_err();
        }
        assert_eq!(counters.read("all 91"), Ok((81, 0)));
        assert_eq!(counters.read("all 92\nbad 3"), Ok((1, 2)));
    }

    #[test]
    fn of_what_is_away_for_long_some_is_remembered() {
        let mut counters = Counters::new("all", "bad", true).unwrap();
        for worker in 0..3 * AWAY_MAX {
            // The first ones are waited for.
            let _ = counters.read(&format!("all{{worker=\"{worker}\"}} 1"));
            assert!(counters.requests.series.len() <= AWAY_MAX + 1 + WAIT_LOOKS as usize);
        }
    }

    #[test]
    fn many_that_are_away_for_once_have_not_counted_all_again() {
        let mut counters = Counters::new("all", "bad", true).unwrap();
        let page = |workers: usize| -> String {
            let line = |worker| format!("all{{worker=\"{worker}\"}} 100\n");
            (0..workers).map(line).collect()
        };
        let many = 2 * AWAY_MAX + 500;
        counters.read(&page(many)).unwrap();
        assert!(counters.read(&page(AWAY_MAX)).unwrap_err().contains("away"));
        assert_eq!(counters.read(&page(many)), Ok((0, 0)));
    }

    #[test]
    fn what_a_found_run_shows_a_little_later_has_not_just_counted_it() {
        let mut found = Counters::new("all", "bad", false).unwrap();
        assert_eq!(found.read("all{worker=\"2\"} 7"), Ok((0, 0)));
        let both = "all{worker=\"1\"} 9000\nall{worker=\"2\"} 8\nbad 4500";
        assert_eq!(found.read(both), Ok((1, 0)));
        let both = "all{worker=\"1\"} 9002\nall{worker=\"2\"} 8\nbad 4501";
        assert_eq!(found.read(both), Ok((2, 1)));
        for _ in 0..WAIT_LOOKS {
            found.read(both).unwrap();
        }
        let more = format!("{both}\nbad{{code=\"502\"}} 3\nall{{code=\"502\"}} 3");
        assert_eq!(found.read(&more), Ok((3, 3)), "that is new");
    }
}
