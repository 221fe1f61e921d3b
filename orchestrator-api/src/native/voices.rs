//! Which agent speaks for each node.
//!
//! A token says for which node somebody may speak; an open server has none, and two agents may have been given one name.
//! Both would run what the node is to run, and of their reports nobody could make sense. So the first is believed for as
//! long as it is heard, and the other is refused.
//!
//! Kept in memory only: after a restart the first that speaks is believed anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use orchestrator_core::Span;
use orchestrator_core::fleet::NodeName;

use super::problem::Problem;

/// By node.
#[derive(Debug, Default)]
pub(super) struct Voices(Mutex<HashMap<NodeName, Voice>>);

#[derive(Debug)]
struct Voice {
    agent: String,
    heard: Instant,
    /// Who was refused last: that is logged once.
    refused: Option<String>,
}

impl Voices {
    /// Refuses an agent where another one was heard within a lease. Who does not say which one he is, is not looked at.
    pub(super) fn admit(
        &self,
        node: &NodeName,
        agent: Option<&str>,
        lease: Span,
    ) -> Result<(), Problem> {
        self.hears(node, agent, lease, false)
    }

    /// The same of a node that is known, whose agent this is from now on.
    pub(super) fn heard(
        &self,
        node: &NodeName,
        agent: Option<&str>,
        lease: Span,
    ) -> Result<(), Problem> {
        self.hears(node, agent, lease, true)
    }

    fn hears(
        &self,
        node: &NodeName,
        agent: Option<&str>,
        lease: Span,
        is_known: bool,
    ) -> Result<(), Problem> {
        let Some(agent) = agent else {
            return Ok(());
        };
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(voice) = all.get_mut(node) {
            if voice.agent == agent {
                voice.heard = now;
                return Ok(());
            }
            let silent = now.saturating_duration_since(voice.heard);
            if silent < Duration::from_millis(lease.as_millis()) {
                if voice.refused.as_deref() != Some(agent) {
                    voice.refused = Some(agent.to_owned());
                    tracing::warn!(%node, "two agents have been given the name of one node: the second is refused");
                }
                let detail = format!(
                    "another agent speaks for node {node}: give this one a name of its own, or stop that one, which gives way \
                     when it is not heard for {lease}"
                );
                return Err(Problem::conflict("another-agent", detail));
            }
        }
        if is_known {
            let voice = Voice {
                agent: agent.to_owned(),
                heard: now,
                refused: None,
            };
            all.insert(node.clone(), voice);
        }
        Ok(())
    }

    pub(super) fn forget(&self, node: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_while_the_first_is_heard() {
        let (voices, node) = (Voices::default(), NodeName::from("n1"));
        let hour = Span::from_secs(3600);
        // Nobody is known yet, and to ask alone makes nobody so.
        for agent in ["a", "b"] {
            voices.admit(&node, Some(agent), hour).unwrap();
        }
        voices.heard(&node, Some("a"), hour).unwrap();
        voices.heard(&node, Some("a"), hour).unwrap();
        for refused in [Voices::admit, Voices::heard] {
            let why = refused(&voices, &node, Some("b"), hour).unwrap_err();
            assert_eq!(why.status, 409);
            assert!(why.detail.contains("another agent speaks for node n1"));
        }
        // Who does not say who he is, takes nothing from who does.
        voices.heard(&node, None, hour).unwrap();
        voices.admit(&node, Some("b"), hour).unwrap_err();
        // Of another node; and of this one when it is forgotten.
        voices.heard(&"n2".into(), Some("b"), hour).unwrap();
        voices.forget("n1");
        voices.heard(&node, Some("b"), hour).unwrap();
        voices.heard(&node, Some("a"), hour).unwrap_err();
        // The lease of the one is over.
        voices
            .heard(&node, Some("a"), Span::from_millis(0))
            .unwrap();
        voices.heard(&node, Some("b"), hour).unwrap_err();
    }
}
