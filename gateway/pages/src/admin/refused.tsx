import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { Letters } from "../letters";
import { Choice, Title } from "../parts";
import { may } from "../session";
import { named, t } from "../texts";
import type { Membership } from "../types";

const REASONS = [
  "malformed_json", "not_an_object", "empty_payload", "ts_invalid", "ts_missing_in_array", "too_far_in_future",
  "too_far_in_past", "metric_name_invalid", "value_not_a_number", "value_not_finite", "no_metrics", "seq_invalid",
  "status_invalid", "too_many_metrics", "too_many_metric_names", "too_many_devices", "oversized", "misplaced_topic",
  "wrong_site", "wrong_partition", "conflicts_with_stored", "database_refused", "undecodable_record",
]; // prettier-ignore

export function Refused({ site }: { site: Membership }): JSX.Element {
  const [reason, setReason] = useState("");
  const filter = { site: site.site, reason: reason || null };
  return (
    <>
      <Title text={t("admin.refused")} />
      <p class="lead">{t("letters.lead")}</p>
      <Letters key={reason} filter={filter} zone={site.time_zone} mayReplay={may("dead_letters:replay", site)}>
        <Choice
          name="reason"
          label={t("letters.reason")}
          value={reason}
          onChange={setReason}
          options={[["", t("letters.any")], ...REASONS.map((each): [string, string] => [each, named("reason", each)])]}
        />
      </Letters>
    </>
  );
}
