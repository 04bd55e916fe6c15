//! Quarantine of ids and slots.

use super::*;
use crate::cases::notation::change;
use crate::diff::RealizedState;
use crate::index::Index;
use crate::model::NodeContext;
use crate::tables::Changed;

#[test]
fn quarantine_holds_ids_of_the_last_plans_only() {
    let mut index = Index::new("n1");
    let mut realized = RealizedState::new(ReadBack::default());
    for n in 0..20 {
        // Each plan replaces the Service and its backend.
        if n > 0 {
            index.apply(change(&format!("delete service shop/web-{}", n - 1)).unwrap());
        }
        index.apply(change(&format!("service shop/web-{n} 10.96.0.7 /TCP:80")).unwrap());
        let slice = format!("slice shop/web of=web-{n} ports=/TCP:80 10.244.1.{n}@n1");
        index.apply(change(&slice).unwrap());
        let tables = Tables::full(&index, &NodeContext::default());
        realized.compare_all();
        realized.plan(&tables, &Changed::default());
    }
    assert_eq!(realized.services().services.quarantined(), 2);
    assert_eq!(realized.services().backends.quarantined(), 2);
    assert_eq!(realized.services().freed.iter().count(), 2);
}
