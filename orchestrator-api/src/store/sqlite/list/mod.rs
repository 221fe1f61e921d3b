//! Pages of deployments, each at a bounded cost, whatever the condition and the order.
//!
//! Every field has an index, in the order of its values and then of ids. If something that every row of the list has
//! to meet leaves few rows, those are read and sorted. Otherwise the [walk] goes along the index of the order's first
//! field, and when its time is over, it ends the page where it is.

mod candidates;
mod place;
mod range;
mod walk;

use rusqlite::{Connection, params};

use self::candidates::Candidates;
use self::walk::Walk;
use super::fault::misuse;
use super::rows::{self, limit};
use super::sql::{self, ROW, Sql};
use crate::list::{Field, Order, Page, Query};
use crate::store::DeploymentRow;

/// So many rows without a condition may be read to be sorted: all of them have to be, however long it takes.
const WINDOW: u32 = 2000;

pub(super) fn page(conn: &Connection, query: &Query) -> rusqlite::Result<Page<DeploymentRow>> {
    // One view of all for the several statements to come.
    let view = conn.unchecked_transaction()?;
    let Query {
        condition,
        order,
        after,
        limit: max,
    } = query;
    let fields = fields(order);
    if let Some(after) = after
        && after.values.len() != order.0.len()
    {
        return Err(misuse("the place is of a list in another order"));
    }

    let fits = sql::condition(condition);
    let window = (WINDOW * ROW / (ROW + fits.cost)).max(1);
    let found = match candidates::candidates(&view, condition, window)? {
        Candidates::None => walk::Found::default(),
        Candidates::Few(few) => {
            let mut walk = Walk::new(&view, order, &fields, &fits, after.as_ref(), limit(*max))?;
            walk.few(&few)?;
            walk.found()
        }
        Candidates::Many(ranges) => {
            let mut walk = Walk::new(&view, order, &fields, &fits, after.as_ref(), limit(*max))?;
            walk.along(&ranges, window)?;
            walk.found()
        }
    };
    let mut read = view.prepare_cached(&format!("{} WHERE row = ?1", rows::DEPLOYMENT))?;
    let rows = found
        .rows
        .iter()
        .map(|row| read.query_one(params![row], rows::deployment))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Page {
        rows,
        next: found.next,
    })
}

/// The fields that decide, and whether they descend: none twice, and nothing after the id.
fn fields(order: &Order) -> Vec<(Field, bool)> {
    let mut fields: Vec<(Field, bool)> = Vec::new();
    for (field, descends) in &order.0 {
        if fields.iter().all(|(known, _)| known != field) {
            fields.push((*field, *descends));
        }
        if *field == Field::Id {
            return fields;
        }
    }
    let descends = order.0.last().is_none_or(|(_, descends)| *descends);
    fields.push((Field::Id, descends));
    fields
}
