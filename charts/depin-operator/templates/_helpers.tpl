{{/* The start of the names of all objects: `depin` for a release named `depin` or `depin-operator`. */}}
{{- define "depin.fullname" -}}
{{- default (.Release.Name | trimSuffix "-operator") .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of a component's objects. Takes a list: root, component. */}}
{{- define "depin.name" -}}
{{- printf "%s-%s" (include "depin.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* What selects a component's Pods. Takes a list: root, component. */}}
{{- define "depin.selector" -}}
app.kubernetes.io/name: depin-operator
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Takes a list: root, component. */}}
{{- define "depin.labels" -}}
{{- $root := index . 0 -}}
{{ include "depin.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: depin
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.global.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a component's Pods: nothing that changes with each version of the chart. Takes a list: root, component. */}}
{{- define "depin.podLabels" -}}
{{ include "depin.selector" . }}
app.kubernetes.io/part-of: depin
{{- range list (index . 0).Values.global.labels (get (index . 0).Values (index . 1)).podLabels }}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* An image's reference. Takes a list: root, the component's `image`. */}}
{{- define "depin.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := printf "%s/%s" (default $root.Values.global.imageRegistry $image.registry) $image.repository -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "depin.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The name of a component's ServiceAccount. Takes a list: root, component. */}}
{{- define "depin.serviceAccount" -}}
{{- $account := (get (index . 0).Values (index . 1)).serviceAccount -}}
{{- if $account.name -}}
{{ $account.name }}
{{- else if $account.create -}}
{{ include "depin.name" . }}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* The agents' namespace. */}}
{{- define "depin.agentNamespace" -}}
{{- default .Release.Namespace .Values.agent.namespace -}}
{{- end -}}

{{/* What every container of ours may do: nothing. */}}
{{- define "depin.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What every Pod of ours runs as. */}}
{{- define "depin.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Flags that all programs share. */}}
{{- define "depin.telemetryArgs" -}}
- --admin-listen={{ .Values.global.bindAddress }}:9100
- --log-format={{ .Values.log.format }}
- --log={{ .Values.log.filter }}
{{- with .Values.tracing.endpoint }}
- --otlp-endpoint={{ . }}
- --otlp-sample={{ $.Values.tracing.sample }}
{{- end }}
{{- end -}}

{{/* The gateway's DNS names and addresses in its certificate, one a line. */}}
{{- define "depin.gatewayNames" -}}
{{- $name := include "depin.name" (list . "gateway") -}}
{{ $name }}
{{ $name }}.{{ .Release.Namespace }}
{{ $name }}.{{ .Release.Namespace }}.svc
{{- range .Values.gateway.external.extraSANs }}
{{ . }}
{{- end }}
{{- if .Values.gateway.external.tlsRoute.enabled }}
{{- range .Values.gateway.external.tlsRoute.hostnames }}
{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where agents find the gateway. */}}
{{- define "depin.agentGateway" -}}
{{- if .Values.agent.gateway -}}
{{ .Values.agent.gateway }}
{{- else if .Values.agent.only -}}
{{- fail "agent.gateway is missing: agent.only installs no gateway; give the hub's, like https://gateway.example:8443" -}}
{{- else -}}
https://{{ include "depin.name" (list . "gateway") }}.{{ .Release.Namespace }}.svc:8443
{{- end -}}
{{- end -}}

{{/* The broker's address inside the cluster. */}}
{{- define "depin.brokerHost" -}}
{{ include "depin.name" (list . "broker") }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Where agents subscribe; empty: nowhere. */}}
{{- define "depin.agentBroker" -}}
{{- if .Values.agent.broker -}}
{{ .Values.agent.broker }}
{{- else if .Values.broker.enabled -}}
mqtt://{{ include "depin.brokerHost" . }}:1883
{{- end -}}
{{- end -}}

{{/* A priority class's name. Takes a list: root, the component's own choice, `center` or `edge`. */}}
{{- define "depin.priorityClass" -}}
{{- $root := index . 0 -}}
{{- if index . 1 -}}
{{ index . 1 }}
{{- else if $root.Values.priorityClasses.create -}}
{{ include "depin.name" (list $root (index . 2)) }}
{{- end -}}
{{- end -}}

{{/* How Pods are placed and ranked. Takes a list: root, component, `center` or `edge`. */}}
{{- define "depin.placement" -}}
{{- $root := index . 0 -}}
{{- $values := get $root.Values (index . 1) -}}
{{- with include "depin.priorityClass" (list $root $values.priorityClassName (index . 2)) }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.affinity }}
affinity: {{- toYaml $values.affinity | nindent 2 }}
{{- else if and (eq (index . 2) "center") $root.Values.agent.enabled $root.Values.agent.nodeSelector }}
# Away from the edge, where there is another place: what is cut off with a site serves none of the others.
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      preference:
        matchExpressions:
        {{- range $key, $_ := $root.Values.agent.nodeSelector }}
        - {key: {{ $key }}, operator: DoesNotExist}
        {{- end }}
{{- end }}
{{- end -}}
