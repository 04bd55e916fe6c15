//! Recovery: from the rows of any state, or of a change that was interrupted, to those of any other state.

use proptest::sample;

use super::*;

/// Whether a pod is closed in a direction before or after.
fn has_closed_end(rows: [&PolicyRows; 2]) -> bool {
    let mut rows = rows.into_iter().flat_map(|rows| rows.pods.values());
    rows.any(|row| row.ends.contains(&CLOSED_END))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(300), failure_persistence: None, ..Default::default() })]

    #[test]
    fn recovery_judges_as_before_or_after_or_closes(
        objects in generate::policy_objects(),
        local in generate::leases(),
        events in vec(event(), 1..6),
        rejudge in any::<bool>(),
    ) {
        let own = own_of(&objects, &events);
        let (mut index, mut local) = (index_of(&objects), local);
        let before = afresh(&index, &local);
        apply_together(events, &mut index, &mut local);
        let after = afresh(&index, &local);
        let mut maps = Maps { rows: before.clone(), ..Maps::default() };
        let mut closed = has_closed_end([&before, &after]);
        for step in Step::recovery(map::POLICY_CLASSES_MAX, before.clone(), &after, &local, rejudge) {
            closed |= step.pods.iter().any(|(_, row)| row.ends.contains(&CLOSED_END));
            let change = Transition { before: &before, after: &after, several: true };
            let dropped = carry_out(&mut maps, &step, &local, &own, Some(change));
            prop_assert!(!dropped || closed, "dropped without closing a pod");
        }
        prop_assert_eq!(maps.rows, after);
    }

    #[test]
    fn verdicts_of_an_interrupted_change_are_judged_again_after_recovery(
        objects in generate::policy_objects(),
        local in generate::leases(),
        interrupted in vec(event(), 1..6),
        while_away in option::weighted(0.7, vec(event(), 1..6)),
        rows in any::<sample::Index>(),
    ) {
        let while_away = while_away.unwrap_or_default();
        let own = own_of(&objects, interrupted.iter().chain(&while_away));
        let (mut index, mut local) = (index_of(&objects), local);
        let mut policies = Policies::default();
        policies.update(&index, &index.clone().take_policy_dirty(), &local);
        let mut maps = Maps { rows: policies.rows(), ..Maps::default() };
        index.take_policy_dirty();
        apply_together(interrupted, &mut index, &mut local);
        let steps = policies.update(&index, &index.clone().take_policy_dirty(), &local);
        // Upper bound: each row of a pod may be preceded by a mark. A number beyond the last row completes the
        // change.
        let lengths = steps.iter().map(|step| {
            let writes = step.writes(0, &BTreeMap::new());
            step.pods.len() + writes.iter().map(Write::len).sum::<usize>()
        });
        let mut left = rows.index(lengths.sum::<usize>() + 1);
        let mut recorded = vec![(maps.epoch, judgements(&maps.rows, &local, &own))];
        'steps: for step in steps {
            for write in step.writes(maps.epoch, &maps.rows.pods) {
                for at in 0..write.len() {
                    if left == 0 {
                        break 'steps;
                    }
                    left -= 1;
                    maps.apply(&write, at);
                    recorded.push((maps.epoch, judgements(&maps.rows, &local, &own)));
                }
            }
        }
        apply_together(while_away, &mut index, &mut local);
        let after = afresh(&index, &local);
        let found = maps.rows.clone();
        let last = maps.revisions.values().copied().max().unwrap_or_default();
        let is_ahead = last > maps.epoch;
        maps.epoch = maps.epoch.max(last);
        for step in Step::recovery(map::POLICY_CLASSES_MAX, found.clone(), &after, &local, is_ahead) {
            let change = Transition { before: &found, after: &after, several: true };
            carry_out(&mut maps, &step, &local, &own, Some(change));
        }
        check_recorded(&maps, &recorded, &local, &own);
        prop_assert_eq!(maps.rows, after);
    }
}
