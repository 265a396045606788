// The types of a dashboard, from Grafana's own types. These have enumerations where JSON has strings
// and numbers, and do not define the options of a panel. This file defines both.
import type * as grafana from "@grafana/schema";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as series from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** A type in which enumerations are replaced by their values. */
type Plain<T> = T extends string
  ? `${T}`
  : T extends number
    ? number extends T
      ? number
      : `${T}` extends `${infer N extends number}`
        ? N
        : never
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

/** A query to Prometheus. Its package is not used, because it has many dependencies. */
interface Query {
  datasource: grafana.DataSourceRef;
  editorMode: "code";
  expr: string;
  format?: "heatmap" | "table";
  instant?: boolean;
  legendFormat?: string;
  range: boolean;
  refId: string;
}

interface Panel<Type extends string, Options, Custom> extends Omit<grafana.Panel, "type" | "options" | "fieldConfig" | "targets"> {
  type: Type;
  title: string;
  description: string;
  options: Options;
  fieldConfig: {
    defaults: Omit<grafana.FieldConfig, "custom"> & { custom?: Custom };
    overrides: grafana.FieldConfigSource["overrides"];
  };
  targets: Query[];
}

export interface Panels {
  heatmap: Plain<Panel<"heatmap", heatmap.Options, heatmap.FieldConfig>>;
  row: Plain<grafana.RowPanel>;
  stat: Plain<Panel<"stat", stat.Options, never>>;
  "state-timeline": Plain<Panel<"state-timeline", timeline.Options, timeline.FieldConfig>>;
  table: Plain<Panel<"table", table.Options, table.FieldConfig>>;
  timeseries: Plain<Panel<"timeseries", series.Options, series.FieldConfig>>;
}

/** Everything but the panels. `definition` is the text that Grafana shows for a variable's query. */
export type Frame = Plain<Omit<grafana.Dashboard, "panels" | "templating">> & {
  templating: { list: (Plain<grafana.VariableModel> & { definition?: string })[] };
};
