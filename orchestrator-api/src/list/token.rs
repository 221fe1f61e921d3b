//! A place in a list as a client carries it from one page to the next.
//!
//! The text is opaque and fits into a URL. It is bound to its list, which is a condition and an order, and is refused
//! with another one. It is no secret and no proof: who forges one gets a page of a list that he may read anyway.

use orchestrator_core::DeploymentId;

use super::{Condition, Order, Place};

/// The longest token that is looked at. Those that are given out have less than a quarter of it.
const TOKEN_BYTES_MAX: usize = 4096;
/// Grows with every change of the form.
const FORM: u8 = 1;
/// The form, a check sum of all that follows, and the hash of the list.
const HEAD: usize = 1 + 8 + 8;

impl Place {
    /// The token of this place in the list of the deployments that this condition is true of, in this order. What
    /// else chose the list (a parameter for the namespace, say) has to be part of the condition.
    pub fn token(&self, condition: &Condition, order: &Order) -> String {
        seal(&name_of(condition, order), &self.written())
    }

    /// The place that a token of this list says. It has the values that the order wants.
    pub fn from_token(
        token: &str,
        condition: &Condition,
        order: &Order,
    ) -> Result<Self, TokenError> {
        let place = open(&name_of(condition, order), token)?;
        serde_json::from_slice(&place)
            .ok()
            .filter(|place: &Self| place.is_of(order))
            .ok_or(TokenError::Damaged)
    }

    fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers can always be written")
    }

    /// Whether a row can have this place.
    fn is_of(&self, order: &Order) -> bool {
        let id: Result<DeploymentId, _> = self.id.parse();
        let mut values = order.0.iter().zip(&self.values);
        self.values.len() == order.0.len()
            && values.all(|((field, _), value)| field.takes(value.as_ref()))
            && id.is_ok_and(|id| id.to_string() == self.id)
    }
}

/// Why a page token is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Cut off, edited, or never given out.
    #[error(
        "the page token is damaged or none of this server's: send it as it was given, or leave it out to begin at the first page"
    )]
    Damaged,
    /// It goes on with another list.
    #[error(
        "the page token belongs to another list: send it with the filter, the order and all other parameters of the page that it came with, or leave it out to begin at the first page"
    )]
    OtherList,
}

/// The token of a place in the list of this name, which says all that the list was chosen by.
pub(crate) fn seal(list: &str, place: &[u8]) -> String {
    let mut checked = hash(list.as_bytes()).to_be_bytes().to_vec();
    checked.extend(place);
    let mut bytes = vec![FORM];
    bytes.extend(hash(&checked).to_be_bytes());
    bytes.extend(checked);
    encode(&bytes)
}

/// The place that a token of this list says.
pub(crate) fn open(list: &str, token: &str) -> Result<Vec<u8>, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Damaged);
    }
    let bytes = decode(token).ok_or(TokenError::Damaged)?;
    let (head, place) = bytes.split_at_checked(HEAD).ok_or(TokenError::Damaged)?;
    let whole = head[0] == FORM && head[1..9] == hash(&bytes[9..]).to_be_bytes();
    if !whole {
        return Err(TokenError::Damaged);
    }
    if head[9..] != hash(list.as_bytes()).to_be_bytes() {
        return Err(TokenError::OtherList);
    }
    Ok(place.to_vec())
}

fn name_of(condition: &Condition, order: &Order) -> String {
    // No order has a line break.
    format!("{order}\n{condition}")
}

/// FNV-1a. The one of the standard library may change with the compiler, and then a rolling update of the servers
/// would break every list that somebody is reading.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding (RFC 4648, section 5).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * index) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}

/// There is one text for any bytes: what [`encode`] does not write is `None`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut bits = 0;
        for (index, byte) in chunk.iter().enumerate() {
            let digit = DIGITS.iter().position(|digit| digit == byte)?;
            bits |= u32::try_from(digit).ok()? << (18 - 6 * index);
        }
        let [_, kept @ ..] = bits.to_be_bytes();
        let (kept, rest) = kept.split_at(chunk.len() - 1);
        if kept.is_empty() || rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend(kept);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{Field, Value};

    const ID: &str = "01969af3-6c00-7a1b-8c2d-0123456789ab";

    const GOLDEN: &str = "AXZNyiA6j9aXy67gWylglLV7InZhbHVlcyI6W251bGwsIndlYiJdLCJpZCI6IjAxOTY5YWYzLTZjMDAtN2ExYi04YzJkLTAxMjM0NTY3ODlhYiJ9";

    fn list() -> (Condition, Order) {
        let condition = Condition::parse("state = failed AND namespace = prod").unwrap();
        (
            condition,
            Order::parse("completed_at desc, job_id").unwrap(),
        )
    }

    fn place() -> Place {
        Place {
            values: vec![None, Some(Value::Text("web".into()))],
            id: ID.into(),
        }
    }

    #[test]
    fn base64url_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(encode(&[0xfb, 0xff]), "-_8");
        for text in ["Z", "Zm9vY", "Zh", "Zg==", "Zm9v\n", "Zm+v", "é"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_token_leads_back_to_its_place() {
        let (condition, order) = list();
        let token = place().token(&condition, &order);
        assert_eq!(Place::from_token(&token, &condition, &order), Ok(place()));
        // Another server of another version reads it too: this text never changes while the form is 1.
        assert_eq!(token, GOLDEN);
    }

    #[test]
    fn a_token_is_refused_with_another_list() {
        let (condition, order) = list();
        let token = place().token(&condition, &order);
        for filter in ["", "state = failed", "state = failed AND namespace = prod2"] {
            let other = Condition::parse(filter).unwrap();
            assert_eq!(
                Place::from_token(&token, &other, &order),
                Err(TokenError::OtherList)
            );
        }
        for order_by in ["", "completed_at, job_id", "completed_at desc, namespace"] {
            let other = Order::parse(order_by).unwrap();
            assert_eq!(
                Place::from_token(&token, &condition, &other),
                Err(TokenError::OtherList)
            );
        }
        let spelled = Condition::parse("(status.state=failed)  namespace=\"prod\"").unwrap();
        assert_eq!(Place::from_token(&token, &spelled, &order), Ok(place()));
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let (condition, order) = list();
        let token = place().token(&condition, &order);
        let read = |token: &str| Place::from_token(token, &condition, &order);
        for end in 0..token.len() {
            assert_eq!(
                read(&token[..end]),
                Err(TokenError::Damaged),
                "cut at {end}"
            );
        }
        for at in 0..token.len() {
            for digit in DIGITS.iter().map(|&digit| char::from(digit)) {
                let mut edited = token.clone();
                edited.replace_range(at..=at, &digit.to_string());
                let expected = if edited == token {
                    Ok(place())
                } else {
                    Err(TokenError::Damaged)
                };
                assert_eq!(read(&edited), expected, "{digit} at {at}");
            }
        }
        for garbage in [
            "",
            "1",
            "next",
            "é",
            &token.repeat(100),
            &format!("{token}A"),
        ] {
            assert_eq!(read(garbage), Err(TokenError::Damaged), "{garbage}");
        }
    }

    #[test]
    fn a_forged_place_is_refused() {
        let (condition, order) = list();
        let text = |text: &str| Some(Value::Text(text.into()));
        for (values, id) in [
            (vec![], ID),
            (vec![None], ID),
            (vec![None, text("web"), None], ID),
            (vec![None, None], ID),
            (vec![text("web"), text("web")], ID),
            (vec![None, Some(Value::Number(1))], ID),
            (vec![None, text("web")], ""),
            (vec![None, text("web")], "01969AF36C007A1B8C2D0123456789AB"),
        ] {
            let id = id.into();
            let token = Place { values, id }.token(&condition, &order);
            assert_eq!(
                Place::from_token(&token, &condition, &order),
                Err(TokenError::Damaged)
            );
        }
        assert!(!Field::State.takes(text("ended").as_ref()));
    }
}
