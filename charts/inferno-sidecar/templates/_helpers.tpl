{{- define "inferno.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "inferno.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "inferno.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "inferno.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "inferno.selector" -}}
app.kubernetes.io/name: {{ include "inferno.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "inferno.labels" -}}
{{ include "inferno.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inferno.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "inferno.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false, so serviceAccount.name must name one that exists" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "inferno.replicas" -}}
{{- .Values.wva.replicaCount | default .Values.replicas | int -}}
{{- end -}}

{{- define "inferno.controllerInstance" -}}
{{- .Values.controllerInstance | default .Values.wva.controllerInstance | default "" -}}
{{- end -}}

{{/* Namespaces to look at, joined by commas. */}}
{{- define "inferno.namespaces" -}}
{{- if .Values.namespaces -}}
{{- join "," .Values.namespaces -}}
{{- else if .Values.wva.namespaceScoped -}}
{{- list .Release.Namespace (default .Release.Namespace .Values.llmd.namespace) | uniq | join "," -}}
{{- end -}}
{{- end -}}

{{- define "inferno.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}

{{- define "inferno.prometheusUrl" -}}
{{- .Values.prometheus.url | default (dig "prometheus" "baseURL" "" .Values.wva) -}}
{{- end -}}

{{- define "inferno.certificateSecret" -}}
{{- $c := .Values.externalMetrics.certificate -}}
{{- if eq $c.mode "secret" -}}
{{- required "externalMetrics.certificate.mode is secret, so externalMetrics.certificate.secretName must name it" $c.secretName -}}
{{- else -}}
{{- $c.secretName | default (printf "%s-external-metrics" (include "inferno.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{- define "inferno.externalMetricsService" -}}
{{- printf "%s-external-metrics" (include "inferno.fullname" .) -}}
{{- end -}}

{{/* The variants: those of `models`, and the one that the reference chart's values describe. */}}
{{- define "inferno.models" -}}
{{- $models := list -}}
{{- range .Values.models -}}
{{- $models = append $models (merge (dict "namespace" (.namespace | default $.Release.Namespace)) .) -}}
{{- end -}}
{{- if and .Values.llmd.modelID (ne (toString (dig "enabled" true .Values.va)) "false") -}}
{{- $name := printf "%s-decode" (.Values.llmd.modelName | default (.Values.llmd.modelID | lower | replace "/" "-" | replace "." "-")) -}}
{{- $model := dict "name" $name "namespace" (.Values.llmd.namespace | default .Release.Namespace) "modelID" .Values.llmd.modelID -}}
{{- with .Values.va.accelerator }}{{- $_ := set $model "accelerator" . -}}{{- end -}}
{{- with .Values.va.variantCost }}{{- $_ := set $model "cost" (toString .) -}}{{- end -}}
{{- with .Values.hpa.minReplicas }}{{- $_ := set $model "minReplicas" . -}}{{- end -}}
{{- with .Values.hpa.maxReplicas }}{{- $_ := set $model "maxReplicas" . -}}{{- end -}}
{{- with .Values.hpa.behavior }}{{- $_ := set $model "behavior" . -}}{{- end -}}
{{- $_ := set $model "autoscaler" (ternary "hpa" "none" (ne (toString (dig "enabled" true .Values.hpa)) "false")) -}}
{{- $models = append $models $model -}}
{{- end -}}
{{- toYaml (dict "models" $models) -}}
{{- end -}}

{{/* The container, also for the Prometheus pod. */}}
{{- define "inferno.container" -}}
- name: inferno-sidecar
  image: {{ include "inferno.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - serve
    - --listen={{ ternary "0.0.0.0" "127.0.0.1" .Values.standalone }}:9099
    - --source={{ .Values.source }}
    {{- if eq .Values.source "files" }}
    - --config-dir=/etc/inferno
    {{- else }}
    {{- with include "inferno.namespaces" . }}
    - --namespaces={{ . }}
    {{- end }}
    {{- with include "inferno.controllerInstance" . }}
    - --controller-instance={{ . }}
    {{- end }}
    {{- with .Values.shard }}
    - --shard={{ . }}
    {{- end }}
    - --write-status={{ .Values.writeStatus }}
    - --write-events={{ .Values.writeEvents }}
    - --actuation={{ .Values.actuation }}
    - --leader-elect={{ .Values.leaderElection }}
    - --lease-name={{ include "inferno.fullname" . }}
    {{- end }}
    - --log-format={{ .Values.logFormat }}
    - --log={{ .Values.wva.logLevel | default .Values.log }}
    - --wva-aliases={{ .Values.wvaAliases }}
    {{- with .Values.prometheus.url }}
    - --prometheus-url={{ . }}
    {{- end }}
    {{- if .Values.record.enabled }}
    - --record=/var/lib/inferno/recording
    - --record-size={{ .Values.record.size | replace "Gi" "GiB" | replace "Mi" "MiB" }}
    {{- end }}
    {{- if .Values.state.enabled }}
    - --state=/var/lib/inferno-state/learned.json
    {{- end }}
    {{- if .Values.tls.secretName }}
    - --tls-cert-file=/etc/inferno-tls/tls.crt
    - --tls-private-key-file=/etc/inferno-tls/tls.key
    {{- end }}
    {{- if .Values.externalMetrics.enabled }}
    - --external-metrics-listen=0.0.0.0:{{ .Values.externalMetrics.port }}
    {{- if eq .Values.externalMetrics.certificate.mode "self" }}
    - --external-metrics-name={{ include "inferno.externalMetricsService" . }}.{{ .Release.Namespace }}.svc
    {{- else }}
    - --external-metrics-cert-file=/etc/inferno-external-metrics/tls.crt
    - --external-metrics-private-key-file=/etc/inferno-external-metrics/tls.key
    {{- end }}
    {{- end }}
    {{- with .Values.extraArgs }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  env:
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: http, containerPort: 9099}
    {{- if .Values.externalMetrics.enabled }}
    - {name: ext-metrics, containerPort: {{ .Values.externalMetrics.port }}}
    {{- end }}
  {{- if .Values.standalone }}
  {{- $scheme := ternary "HTTPS" "HTTP" (ne .Values.tls.secretName "") }}
  readinessProbe: {httpGet: {path: /-/ready, port: http, scheme: {{ $scheme }}}, periodSeconds: 5}
  livenessProbe: {httpGet: {path: /-/healthy, port: http, scheme: {{ $scheme }}}, periodSeconds: 10, failureThreshold: 6}
  {{- end }}
  {{- with .Values.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  {{- if include "inferno.mounts" . }}
  volumeMounts:
    {{- include "inferno.mounts" . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "inferno.mounts" -}}
{{- if eq .Values.source "files" }}
- {name: config, mountPath: /etc/inferno, readOnly: true}
{{- end }}
{{- if .Values.record.enabled }}
- {name: recording, mountPath: /var/lib/inferno}
{{- end }}
{{- if .Values.state.enabled }}
- {name: state, mountPath: /var/lib/inferno-state}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/inferno-tls, readOnly: true}
{{- end }}
{{- if and .Values.externalMetrics.enabled (ne .Values.externalMetrics.certificate.mode "self") }}
- {name: external-metrics, mountPath: /etc/inferno-external-metrics, readOnly: true}
{{- end }}
{{- end -}}
