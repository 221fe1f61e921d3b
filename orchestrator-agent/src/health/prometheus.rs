//! Two counters from a page in the text format of Prometheus.

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

    /// The sum of all series of a page that match; `None` if there are none.
    pub fn sum(&self, page: &str) -> Option<u64> {
        let mut sum = None;
        for line in page.lines() {
            let line = line.trim_start();
            if !line.starts_with(self.name.as_str()) {
                continue;
            }
            let Some((name, labels, rest)) = series(line) else {
                continue;
            };
            let matches =
                name == self.name && self.labels.iter().all(|label| labels.contains(label));
            let value = rest
                .split_whitespace()
                .next()
                .and_then(|value| value.parse::<f64>().ok());
            if let Some(value) = value.filter(|value| matches && value.is_finite()) {
                *sum.get_or_insert(0.0) += value;
            }
        }
        // A cast keeps to the bounds of its type.
        sum.map(|sum: f64| sum as u64)
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
        let sum = |text: &str| Selector::read(text).unwrap().sum(PAGE);
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
}
