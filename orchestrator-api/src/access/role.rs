//! Who may do what. [`Role::may`] is the one table, and what it does not name is denied.

use serde::{Deserialize, Serialize};

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks after what runs: deployments and nodes. Brings nothing new.
    Operator,
    /// Brings new versions, and looks after their deployments.
    Deployer,
    /// Everything that people do.
    Admin,
    /// One node's agent.
    Node,
    /// Becomes one node's agent, once.
    Join,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Viewer,
        Self::Operator,
        Self::Deployer,
        Self::Admin,
        Self::Node,
        Self::Join,
    ];

    /// Whether a holder of this role may use a route of this class.
    pub const fn may(self, class: Class) -> bool {
        use Role::{Admin, Deployer, Join, Node, Operator, Viewer};
        match class {
            Class::Public => true,
            Class::Read => matches!(self, Viewer | Operator | Deployer | Admin),
            Class::Operate => matches!(self, Operator | Deployer | Admin),
            Class::Fleet => matches!(self, Operator | Admin),
            Class::Deploy => matches!(self, Deployer | Admin),
            Class::Administer => matches!(self, Admin),
            Class::Agent => matches!(self, Node),
            Class::Join => matches!(self, Node | Join),
        }
    }

    /// Whether people and their tools hold it, and not machines of the fleet.
    pub const fn is_of_people(self) -> bool {
        self.may(Class::Read)
    }

    /// The one that is written so.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
            Self::Node => "node",
            Self::Join => "join",
        }
    }
}

/// What kind of thing a route does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Class {
    /// Needs no token: whether the server lives, and its documentation.
    Public,
    /// Shows what runs, with all that its job document says: what is in a job's environment is no secret from viewers.
    Read,
    /// Changes how a deployment goes on: promote, pause, resume, cancel, fail, and back to what ran before.
    Operate,
    /// Changes what may run on a node: drain, enable.
    Fleet,
    /// Changes what is to run: new versions, stop.
    Deploy,
    /// Tokens, the audit log, taking nodes out of the fleet.
    Administer,
    /// What an agent is told, and what it reports.
    Agent,
    /// How an agent introduces its node.
    Join,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Public,
        Self::Read,
        Self::Operate,
        Self::Fleet,
        Self::Deploy,
        Self::Administer,
        Self::Agent,
        Self::Join,
    ];

    /// What a token that may not needs to be for it.
    pub(super) const fn needs(self) -> &'static str {
        match self {
            Self::Public => "nothing",
            Self::Read => "a viewer, operator, deployer or admin token",
            Self::Operate => "an operator, deployer or admin token",
            Self::Fleet => "an operator or admin token",
            Self::Deploy => "a deployer or admin token",
            Self::Administer => "an admin token",
            Self::Agent => "the token of a node",
            Self::Join => "a join token",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, Role};

    #[test]
    fn each_role_may_what_the_table_says() {
        //               viewer operator deployer admin node join
        let table = [
            (Class::Public, "x x x x x x"),
            (Class::Read, "x x x x - -"),
            (Class::Operate, "- x x x - -"),
            (Class::Fleet, "- x - x - -"),
            (Class::Deploy, "- - x x - -"),
            (Class::Administer, "- - - x - -"),
            (Class::Agent, "- - - - x -"),
            (Class::Join, "- - - - x x"),
        ];
        assert_eq!(table.map(|(class, _)| class), Class::ALL);
        for (class, row) in table {
            let may = Role::ALL.map(|role| if role.may(class) { "x" } else { "-" });
            assert_eq!(may.join(" "), row, "{class:?}");
        }
    }
}
