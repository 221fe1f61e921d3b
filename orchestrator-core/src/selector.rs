//! stub
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// stub
pub type Labels = BTreeMap<String, String>;

/// stub
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Selector(Option<(String, String)>);

/// stub
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("label {0:?} is not valid")]
pub struct InvalidLabels(pub String);

/// stub
pub fn check_labels(labels: &Labels) -> Result<(), InvalidLabels> {
    match labels.keys().find(|key| !crate::id::is_name(key)) {
        Some(key) => Err(InvalidLabels(key.clone())),
        None => Ok(()),
    }
}

impl Selector {
    /// stub
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0
            .as_ref()
            .is_none_or(|(key, value)| labels.get(key) == Some(value))
    }
}

impl FromStr for Selector {
    type Err = InvalidLabels;
    fn from_str(text: &str) -> Result<Self, InvalidLabels> {
        Ok(Self(
            text.split_once('=').map(|(a, b)| (a.into(), b.into())),
        ))
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidLabels;
    fn try_from(text: String) -> Result<Self, InvalidLabels> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(s: Selector) -> Self {
        s.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((a, b)) => write!(f, "{a}={b}"),
            None => Ok(()),
        }
    }
}
