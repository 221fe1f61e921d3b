//! stub
/// stub
pub const SPEC_BYTES_MAX: usize = 1;
/// stub
#[derive(Debug)]
pub struct SpecError;
/// stub
#[derive(Debug)]
pub struct SpecErrors;
impl super::RolloutSpec {
    /// stub
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
