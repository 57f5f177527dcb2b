{{/* Certificates: who is let in, and whom each believes. */}}

{{/* Whether agents show their ServiceAccount's token: where fleets are named for it. Only the operator of the same cluster can ask whose it is. */}}
{{- define "depin.agentToken" -}}
{{- if and .Values.agent.fleets (not .Values.agent.only) -}}yes{{- end -}}
{{- end -}}

{{/* The operator's flags. */}}
{{- define "depin.operatorCertificateArgs" -}}
- --ca-introduction={{ .Values.ca.introduction }}
- --token-audience={{ .Values.agent.serviceAccountToken.audience }}
{{- $agents := include "depin.agentNamespace" . }}
{{- range uniq (concat (ternary (list $agents) list (and .Values.agent.enabled (ne $agents .Release.Namespace))) .Values.ca.publishNamespaces) }}
- --publish-ca-namespace={{ . }}
{{- end }}
{{- if .Values.gateway.tls.existingSecret }}
- --gateway-ca-file=/etc/depin/gateway-ca/ca.crt
{{- end }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- end -}}

{{/* The gateway's volumes: its certificate, and what it must know of the authorities. */}}
{{- define "depin.gatewayCertificateVolumes" -}}
{{- if .Values.gateway.tls.existingSecret -}}
- name: tls
  secret: {secretName: {{ .Values.gateway.tls.existingSecret }}, defaultMode: 0440}
# The operator's leader makes it; until then the Pod waits.
- name: ca
  configMap: {name: depin-ca}
{{- else -}}
# The operator's leader makes it; until then the Pod waits.
- name: tls
  secret: {secretName: depin-gateway-tls, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* ConfigMap of the CAs that agents believe at first contact. */}}
{{- define "depin.gatewayCa" -}}
{{- if .Values.gateway.tls.existingSecret -}}
{{- if not .Values.gateway.tls.ca -}}
{{- fail "gateway.tls.ca is missing: gateway.tls.existingSecret is by another authority; give its certificate in PEM, so that operator and agents believe it" -}}
{{- end -}}
{{ include "depin.name" (list . "gateway-ca") }}
{{- else -}}
depin-ca
{{- end -}}
{{- end -}}

{{/* How agents come in: by their ServiceAccount's token, or by a join token. */}}
{{- define "depin.agentCertificateArgs" -}}
{{- if include "depin.agentToken" . -}}
- --service-account-token-file=/var/run/secrets/depin.dev/token
{{- range .Values.agent.fleets }}
- --fleet={{ . }}
{{- end }}
{{- else if .Values.agent.joinToken.existingSecret -}}
- --join-token-file=/etc/depin/join-token/{{ ternary "$(NODE_NAME)" .Values.agent.joinToken.key .Values.agent.joinToken.perNode }}
{{- end }}
{{- if include "depin.agentTrust" . }}
- --gateway-ca-file=/etc/depin/ca/ca.crt
{{- end }}
{{- end -}}

{{/* Whether agents mount the CAs of the gateway. */}}
{{- define "depin.agentTrust" -}}
{{- if or (include "depin.agentToken" .) (and .Values.gateway.tls.existingSecret (not .Values.agent.only)) -}}yes{{- end -}}
{{- end -}}

{{- define "depin.agentCertificateMounts" -}}
{{- if include "depin.agentToken" . -}}
- {name: token, mountPath: /var/run/secrets/depin.dev, readOnly: true}
{{- else if .Values.agent.joinToken.existingSecret -}}
- {name: join-token, mountPath: /etc/depin/join-token, readOnly: true}
{{- end }}
{{- if include "depin.agentTrust" . }}
- {name: ca, mountPath: /etc/depin/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "depin.agentCertificateVolumes" -}}
{{- if include "depin.agentToken" . -}}
# For the gateway alone: the API server does not take it.
- name: token
  projected:
    defaultMode: 0440
    sources:
    - serviceAccountToken:
        audience: {{ .Values.agent.serviceAccountToken.audience }}
        expirationSeconds: {{ .Values.agent.serviceAccountToken.expirationSeconds }}
        path: token
{{- else if .Values.agent.joinToken.existingSecret -}}
- name: join-token
  secret: {secretName: {{ .Values.agent.joinToken.existingSecret }}, optional: true, defaultMode: 0440}
{{- end }}
{{- if include "depin.agentTrust" . }}
# Of the operator's making; until then the Pod waits.
- name: ca
  configMap: {name: {{ include "depin.gatewayCa" . }}}
{{- end }}
{{- end -}}
