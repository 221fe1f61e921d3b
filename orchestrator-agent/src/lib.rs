//! The hands of the orchestrator on a node: receives what the node should run, plans, executes,
//! watches health and reports it. It holds no rule of a rollout: it does not know what a wave is.
//!
//! Not built yet; the [core](orchestrator_core) that it will report to is.
