//! What does not change while a scope is explored.

use ringback_core::ids::BadName;

use super::rules::Rules;
use super::scope::Scope;

/// A scope, and what is known of its rules.
pub struct World {
    pub scope: Scope,
    pub rules: Rules,
}

impl World {
    pub fn new(scope: Scope) -> Result<Self, BadName> {
        let rules = Rules::new(scope.devices.len(), scope.from_app)?;
        Ok(Self { scope, rules })
    }
}
