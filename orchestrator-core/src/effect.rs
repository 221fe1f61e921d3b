//! What must be done, once the entries that led to it are safe. Data only.

use crate::put_aside::PutAside;
use crate::runs::Runs;

/// An order to the driver. Carrying it out twice does no harm. The orders of one step name each execution once, with
/// what it is to run at the end of it.
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
    /// Another selector or spread label is in force: answer with [`Input::Members`](crate::Input::Members).
    /// Until then no node is told to stop because it does not match; see
    /// [`Job::members_due`](crate::Job::members_due).
    MembersNeeded,
    /// These are the targets of a deployment that gave way to another. To be kept by those who want to show them
    /// later: the job does not remember them. One that is not carried out is not ordered again.
    PutAside(Box<PutAside>),
}
