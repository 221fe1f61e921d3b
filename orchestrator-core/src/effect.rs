//! What must be done, once the entries that led to it are safe. Data only.

use crate::runs::Runs;

/// An order to the driver. Carrying it out twice does no harm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// These executions are to run a version. [`Job::assignment`](crate::Job::assignment) says where.
    Assign {
        /// The version; 0 = stop.
        version: u32,
        /// The position in the log that makes it newer than every earlier assignment.
        generation: u64,
        /// The executions.
        slots: Runs,
    },
    /// These nodes have one execution less: send them [what they should run](crate::Job::desired).
    Withdraw {
        /// The nodes' numbers.
        nodes: Runs,
    },
    /// Another selector or spread label is in force: tell the job of every node in the fleet, with
    /// [`Presence::Unmatched`](crate::Presence::Unmatched) for those that it leaves out.
    MembersNeeded,
}
